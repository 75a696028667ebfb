package faultfile

// The server's side: what it answers to the test, and the faults that each operation
// of the kernel passes. A held operation waits in a goroutine of its own, so that the
// server goes on to hear both the kernel and the test.

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	serverEnv = "FT_FAULTFILE_SERVER" // the backing file; makes this process a server
	parentEnv = "FT_FAULTFILE_PARENT" // whose death is the server's
	controlFd = 3

	// TraceMax is how many operations a trace holds.
	TraceMax = 1 << 16

	blockSize   = 4096 // of the counts
	parentEvery = 250 * time.Millisecond
)

func init() {
	if backing := os.Getenv(serverEnv); backing != "" {
		err := serve(backing)
		fmt.Fprintln(os.Stderr, "faultfile server:", err)
		os.Exit(1)
	}
}

// Kind is what an operation does.
type Kind string

// Kinds of operations.
const (
	Open  Kind = "open"
	Read  Kind = "read"
	Write Kind = "write"
	Flush Kind = "flush"
	Zero  Kind = "zero" // fallocate: punch a hole, or zero a range
)

// Op is one operation of the kernel on the file.
type Op struct {
	Kind Kind
	Off  int64
	Len  int64
}

// rule makes operations fail.
type rule struct {
	Op    Kind // Read, Zero; or Write, for zeroings and flushes too
	Errno syscall.Errno
	Off   int64
	Len   int64 // 0: everything
}

func (r rule) hits(op Op) bool {
	if r.Op != op.Kind && (r.Op != Write || op.Kind != Zero && op.Kind != Flush) {
		return false
	}
	return r.Len == 0 || op.Kind != Flush && op.Off < r.Off+r.Len && r.Off < op.Off+op.Len
}

// What the test asks for.
const (
	doFail   = "fail"
	doSlow   = "slow"
	doHang   = "hang"
	doResume = "resume"
	doClear  = "clear"
	doHeld   = "held"
	doCount  = "count"
	doTrace  = "trace"
	doOps    = "ops"
)

type request struct {
	Do    string
	Rule  rule
	Delay time.Duration
}

type answer struct {
	Path string
	N    int64
	Ops  []Op
}

// server is the state of the faults.
type server struct {
	file *os.File

	mu      sync.Mutex // guards the fields below
	rules   []rule
	delay   time.Duration
	hang    chan struct{} // closed to resume; nil: not hanging
	held    int
	read    []int64 // bytes by block
	written []int64
	trace   bool
	ops     []Op
}

// serve is the server process; it ends with the test, or when that is dying.
func serve(backing string) error {
	file, err := os.OpenFile(backing, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	st, err := file.Stat()
	if err != nil {
		return err
	}
	parent, err := strconv.Atoi(os.Getenv(parentEnv))
	if err != nil {
		return err
	}
	blocks := (st.Size() + blockSize - 1) / blockSize
	s := &server{file: file, read: make([]int64, blocks), written: make([]int64, blocks)}
	path, err := s.mount()
	if err != nil {
		return err
	}
	go func() {
		for range time.Tick(parentEvery) {
			if dying(parent) {
				os.Exit(0)
			}
		}
	}()
	ctl := os.NewFile(controlFd, "control")
	in, out := json.NewDecoder(ctl), json.NewEncoder(ctl)
	if err := out.Encode(answer{Path: path}); err != nil {
		return err
	}
	for {
		var r request
		if in.Decode(&r) != nil {
			os.Exit(0) // the test has ended
		}
		if err := out.Encode(s.answer(r)); err != nil {
			return err
		}
	}
}

// dying says whether the process is gone or on its way out. One that is killed while
// it has I/O on a hung file keeps its descriptors, so that their end tells nothing; but
// its main thread is marked.
func dying(pid int) bool {
	const pfExiting = 0x4 // PF_EXITING of include/linux/sched.h
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil || os.Getppid() != pid {
		return true
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest) // from state on; flags is the seventh
	if len(f) < 7 {
		return true
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	return err != nil || flags&pfExiting != 0
}

func (s *server) answer(r request) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	var a answer
	switch r.Do {
	case doFail:
		s.rules = append(s.rules, r.Rule)
	case doSlow:
		s.delay = r.Delay
	case doHang:
		if s.hang == nil {
			s.hang = make(chan struct{})
		}
	case doClear:
		s.rules, s.delay = nil, 0
		fallthrough
	case doResume:
		if s.hang != nil {
			close(s.hang)
			s.hang = nil
		}
	case doHeld:
		a.N = int64(s.held)
	case doCount:
		counts := s.read
		if r.Rule.Op == Write {
			counts = s.written
		}
		end := int64(len(counts))
		if r.Rule.Len > 0 {
			end = min(end, (r.Rule.Off+r.Rule.Len+blockSize-1)/blockSize)
		}
		for b := r.Rule.Off / blockSize; b < end; b++ {
			a.N += counts[b]
		}
	case doTrace:
		s.trace, s.ops = true, nil
	case doOps:
		a.Ops = append([]Op(nil), s.ops...)
	}
	return a
}

// pass holds an operation back and says how it fails, 0 if it does not.
func (s *server) pass(op Op) syscall.Errno {
	s.mu.Lock()
	if s.trace && len(s.ops) < TraceMax {
		s.ops = append(s.ops, op)
	}
	s.held++
	if s.delay > 0 {
		delay := s.delay
		s.mu.Unlock()
		time.Sleep(delay)
		s.mu.Lock()
	}
	for s.hang != nil {
		resumed := s.hang
		s.mu.Unlock()
		<-resumed
		s.mu.Lock()
	}
	s.held--
	defer s.mu.Unlock()
	for _, r := range s.rules {
		if r.hits(op) {
			return r.Errno
		}
	}
	return 0
}

// count adds what an operation has moved.
func (s *server) count(op Op) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := s.read
	if op.Kind == Write {
		counts = s.written
	}
	for off, end := op.Off, op.Off+op.Len; off < end; {
		upto := min(end, (off/blockSize+1)*blockSize)
		if b := off / blockSize; b < int64(len(counts)) {
			counts[b] += upto - off
		}
		off = upto
	}
}
