package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// server is the service: all that it needs is in a directory on the guest's disk.
type server struct {
	requests   *counter
	store      *store
	load       *load
	complaints *complaints
	dataDir    string
}

// stopPatience is how long requests under way may take once the guest is to go down.
const stopPatience = 3 * time.Second

// serve is the service process.
func serve() int {
	s, err := newServer(dataDir)
	if err != nil {
		say("the service does not start: %v", err)
		return 1
	}
	if s.complaints, err = watchKernel(); err != nil {
		say("the kernel's log is not watched: %v", err)
	}
	listener, err := net.Listen("tcp", ":80")
	if err != nil {
		say("the service does not start: %v", err)
		return 1
	}
	say("http://%s/ answers, %.1f s after the kernel's start", ownAddress(), uptime().Seconds())
	web := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	stop, stopped := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stopped()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-stop.Done()
		s.load.stop()
		ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		_ = web.Shutdown(ctx) // what is still under way after that was not acknowledged
	}()
	if err := web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		say("the service ends: %v", err)
		return 1
	}
	<-ended
	return 0
}

func newServer(dir string) (*server, error) {
	requests, err := openCounter(dir)
	if err != nil {
		return nil, err
	}
	files, err := openStore(dir)
	if err != nil {
		return nil, err
	}
	return &server{requests: requests, store: files, load: newLoad(dir), dataDir: dir}, nil
}

const help = `
GET    /             counts requests; the number is on the disk before it is answered
PUT    /files/NAME   stores a file, answered when it is on the disk
GET    /files/NAME   a file; GET /files/ their names
DELETE /files/NAME
GET    /sum          size and SHA-256 of each file, and one sum over all
GET    /status       uptime, requests, the kernel's complaints, load … as JSON
POST   /load?cpu=N&memory=MIB&fault=N&fork=N&disk=N&seconds=S    load that checks itself
GET    /load         what it has done; DELETE ends it
GET    /stream?bytes=N&seed=S    N bytes that S determines; POST takes a body and sums it
POST   /poweroff     a clean end; POST /panic crashes the kernel
`

func (s *server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.count)
	mux.HandleFunc("PUT /files/{name}", s.putFile)
	mux.HandleFunc("GET /files/{name}", s.getFile)
	mux.HandleFunc("DELETE /files/{name}", s.deleteFile)
	mux.HandleFunc("GET /files/{$}", s.listFiles)
	mux.HandleFunc("GET /sum", s.sum)
	mux.HandleFunc("GET /status", s.status)
	mux.HandleFunc("POST /load", s.startLoad)
	mux.HandleFunc("GET /load", s.showLoad)
	mux.HandleFunc("DELETE /load", s.stopLoad)
	mux.HandleFunc("GET /stream", streamOut)
	mux.HandleFunc("POST /stream", streamIn)
	mux.HandleFunc("POST /panic", s.panic)
	mux.HandleFunc("POST /poweroff", s.powerOff)
	return mux
}

// fail answers an error with the status that says whose it is.
func fail(w http.ResponseWriter, err error) {
	status := http.StatusInternalServerError
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		status = http.StatusNotFound
	case errors.Is(err, errName), errors.Is(err, errLoad):
		status = http.StatusBadRequest
	case errors.Is(err, errBusy):
		status = http.StatusConflict
	case errors.Is(err, errFull), errors.Is(err, unix.ENOSPC):
		status = http.StatusInsufficientStorage
	case errors.As(err, &tooLarge):
		status = http.StatusRequestEntityTooLarge
	}
	http.Error(w, err.Error(), status)
}

func (s *server) count(w http.ResponseWriter, _ *http.Request) {
	n, err := s.requests.next()
	if err != nil {
		fail(w, err)
		return
	}
	fmt.Fprintf(w, "request %d\n%s, up for %.1f s\n%s", n, kernelRelease(), uptime().Seconds(), help)
}

func (s *server) putFile(w http.ResponseWriter, r *http.Request) {
	f, made, err := s.store.put(r.PathValue("name"), r.Body)
	if err != nil {
		fail(w, err)
		return
	}
	if made {
		w.WriteHeader(http.StatusCreated)
	}
	io.WriteString(w, f.line())
}

func (s *server) getFile(w http.ResponseWriter, r *http.Request) {
	f, err := s.store.open(r.PathValue("name"))
	if err != nil {
		fail(w, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), f)
}

func (s *server) deleteFile(w http.ResponseWriter, r *http.Request) {
	if err := s.store.remove(r.PathValue("name")); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) listFiles(w http.ResponseWriter, _ *http.Request) {
	entries, err := os.ReadDir(s.store.files)
	if err != nil {
		fail(w, err)
		return
	}
	for _, e := range entries {
		fmt.Fprintln(w, e.Name())
	}
}

func (s *server) sum(w http.ResponseWriter, _ *http.Request) {
	files, total, err := s.store.sum()
	if err != nil {
		fail(w, err)
		return
	}
	var bytes int64
	for _, f := range files {
		io.WriteString(w, f.line())
		bytes += f.Size
	}
	fmt.Fprintf(w, "total: %d files, %d bytes, sha256 %s\n", len(files), bytes, total)
}

func (s *server) startLoad(w http.ResponseWriter, r *http.Request) {
	if err := s.load.start(r.URL.Query()); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusAccepted)
	s.showLoad(w, r)
}

func (s *server) showLoad(w http.ResponseWriter, _ *http.Request) { answer(w, s.load.report()) }

func (s *server) stopLoad(w http.ResponseWriter, r *http.Request) {
	s.load.stop()
	s.showLoad(w, r)
}

func answer(w http.ResponseWriter, v any) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(text, '\n'))
}

// lastWord answers a request after which nothing may be answered any more: the answer is
// given the time to leave.
func lastWord(w http.ResponseWriter, word string, then func() error) {
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintln(w, word)
	_ = http.NewResponseController(w).Flush()
	time.AfterFunc(100*time.Millisecond, func() {
		if err := then(); err != nil {
			say("%s: %v", word, err)
		}
	})
}

// panic crashes the kernel on the spot (Documentation/admin-guide/sysrq.rst).
func (s *server) panic(w http.ResponseWriter, _ *http.Request) {
	lastWord(w, "panic", func() error { return os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0) })
}

func (s *server) powerOff(w http.ResponseWriter, _ *http.Request) {
	lastWord(w, "power off", func() error { return unix.Kill(1, unix.SIGTERM) })
}

// ownAddress is what the kernel's command line gave us, without the prefix.
func ownAddress() string {
	words, _ := os.ReadFile("/proc/cmdline") // without it there is no address to tell
	first, _, _ := strings.Cut(parameters(string(words))["address"], ",")
	address, _, _ := strings.Cut(first, "/")
	if address == "" {
		return "localhost"
	}
	return address
}
