package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"ft/drivers"
	"ft/mirror/balance"
)

// Limits of a request.
const (
	headerTimeout       = 5 * time.Second
	bodyTimeout         = 10 * time.Second
	answerTimeout       = 30 * time.Second // to write one answer, or one piece of a stream
	idleTimeout         = 60 * time.Second
	changeServerTimeout = 60 * time.Second
	headerBytesMax      = 16 << 10
	bodyBytesMax        = 64 << 10
	changeArgsMax       = 16
	shutdownPatience    = 2 * time.Second
)

// Server answers requests with what its Backend says.
type Server struct {
	backend Backend
	log     *slog.Logger
	version Version
	groups  groups
	// stopping ends event streams and consoles, which would outlast a shutdown otherwise.
	stopping context.Context
	consoles consoles
}

// NewServer makes a server; Serve runs it.
func NewServer(b Backend, v Version, log *slog.Logger) *Server {
	return &Server{backend: b, log: log, version: v, groups: groups{ReadGroup, AdminGroup}, consoles: consoles{stuck: consoleStuckMax, open: map[string]int{}}}
}

// Serve answers on the listener until ctx ends, then lets requests under way finish
// for a moment, and returns nil. The socket file goes with the listener.
func (s *Server) Serve(ctx context.Context, ln *net.UnixListener) error {
	s.stopping = ctx
	hs := &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    headerBytesMax,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*peerConn).peer)
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- hs.Serve(&limitedListener{UnixListener: ln, byUID: map[uint32]int{}}) }()
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.Background(), shutdownPatience)
	defer cancel()
	if err := hs.Shutdown(patience); err != nil {
		hs.Close()
	}
	<-ended
	s.consoles.wg.Wait()
	return nil
}

type peerKey struct{}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", s.getStatus)
	mux.HandleFunc("GET /v1/components", s.getComponents)
	mux.HandleFunc("GET /v1/components/{id...}", s.getComponent)
	mux.HandleFunc("POST /v1/components/{path...}", s.postChange)
	mux.HandleFunc("GET /v1/events", s.getEvents)
	mux.HandleFunc("GET /v1/version", s.getVersion)
	mux.HandleFunc("GET /metrics", s.getMetrics)
	return s.guard(mux)
}

// guard decides who may do what, bounds the request, and turns what the mux does not
// know into a sentence.
func (s *Server) guard(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
		_ = rc.SetWriteDeadline(time.Now().Add(answerTimeout))
		r.Body = http.MaxBytesReader(w, r.Body, bodyBytesMax)
		p, ok := r.Context().Value(peerKey{}).(peer)
		if !ok {
			s.fail(w, &Error{Code: CodeForbidden, Sentence: "it is not known who asks"})
			return
		}
		allowed := s.groups.mayChange
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			allowed = s.groups.mayRead
		}
		if e := allowed(p); e != nil {
			s.log.Info("request refused", "user", p.name(), "pid", p.pid, "method", r.Method, "path", r.URL.Path)
			s.fail(w, e)
			return
		}
		if at := path.Clean(r.URL.Path); at != r.URL.Path {
			s.fail(w, &Error{Code: CodeNotFound, Sentence: fmt.Sprintf("ftd has no %q: a path has no empty parts, and none that are dots", r.URL.Path)})
			return
		}
		if _, pattern := mux.Handler(r); pattern == "" {
			s.noPattern(w, r, mux)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// noPattern answers what the mux does not know: is it the path, or only the method?
func (s *Server) noPattern(w http.ResponseWriter, r *http.Request, mux *http.ServeMux) {
	var allow []string
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost} {
		other := *r
		other.Method = method
		if _, pattern := mux.Handler(&other); pattern != "" {
			allow = append(allow, method)
		}
	}
	if len(allow) > 0 {
		s.notAllowed(w, r, allow...)
		return
	}
	s.fail(w, &Error{Code: CodeNotFound, Sentence: fmt.Sprintf("ftd has no %s %s; the API is described in ARCHITECTURE.md", r.Method, r.URL.Path)})
}

// notAllowed answers a method that the path does not take.
func (s *Server) notAllowed(w http.ResponseWriter, r *http.Request, allow ...string) {
	w.Header().Set("Allow", strings.Join(allow, ", "))
	s.fail(w, &Error{Code: CodeNotAllowed, Sentence: fmt.Sprintf("%s takes %s, not %s", r.URL.Path, strings.Join(allow, " and "), r.Method)})
}

func (s *Server) getStatus(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, s.backend.Status())
}

func (s *Server) getVersion(w http.ResponseWriter, r *http.Request) {
	v := s.version
	v.Keeper, v.Outdated = s.backend.Others(r.Context())
	s.answer(w, v)
}

func (s *Server) getComponents(w http.ResponseWriter, _ *http.Request) {
	s.answer(w, Components(s.backend.Status()))
}

func (s *Server) getComponent(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if machine, ok := strings.CutSuffix(id, consolePath); ok {
		s.getConsole(w, r, machine)
		return
	}
	if part, ok := strings.CutSuffix(id, mtbfPath); ok {
		s.getFaultHistories(w, part)
		return
	}
	st := s.backend.Status()
	c, ok := FindComponent(st, id)
	if !ok {
		if cut := strings.LastIndexByte(id, '/'); cut > 0 && slices.Contains(verbs[:], Verb(id[cut+1:])) {
			if _, known := FindComponent(st, id[:cut]); known {
				s.notAllowed(w, r, http.MethodPost)
				return
			}
		}
		s.fail(w, &NoSuchComponent{id})
		return
	}
	if c.Kind == KindSystem {
		id = SystemID
	}
	c.Detail = s.backend.Detail(r.Context(), id)
	c.Events = eventsAbout(s.backend.Events().Latest(componentEventScan), c)
	s.answer(w, c)
}

// postChange reads POST /v1/components/ID/VERB. An ID may contain a slash.
func (s *Server) postChange(w http.ResponseWriter, r *http.Request) {
	at := r.PathValue("path")
	cut := strings.LastIndexByte(at, '/')
	if cut < 0 {
		s.fail(w, badRequest("POST /v1/components/ID/VERB: the verb is missing"))
		return
	}
	c := Change{}
	if err := decodeBody(r.Body, &c); err != nil {
		s.fail(w, err)
		return
	}
	c.ID, c.Verb = at[:cut], Verb(at[cut+1:])
	c.By = r.Context().Value(peerKey{}).(peer).name()
	c.Keep, c.Side, c.From = ModuleOf(c.Keep), ModuleOf(c.Side), ModuleOf(c.From) // pci0/disk0 means the same
	if err := c.check(); err != nil {
		s.fail(w, err)
		return
	}
	// A change that has begun goes on when the one who asked for it has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), changeServerTimeout)
	defer cancel()
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Time{}) // the body is in; what is read now only tells that the caller has gone
	_ = rc.SetWriteDeadline(time.Now().Add(changeServerTimeout + answerTimeout))
	out, err := s.backend.Change(ctx, c)
	if err != nil {
		s.log.Info("change not done", "verb", c.Verb, "id", c.ID, "by", c.By, "error", err)
		s.fail(w, err)
		return
	}
	s.log.Info("change accepted", "verb", c.Verb, "id", c.ID, "by", c.By, "seq", out.Seq)
	s.answer(w, out)
}

// decodeBody reads the JSON of a change; an empty body is a change without arguments.
func decodeBody(body io.Reader, c *Change) error {
	b, err := io.ReadAll(body)
	if err != nil {
		return badRequest("the request's body cannot be read: %v", err)
	}
	if len(b) == 0 {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(c); err != nil {
		return badRequest("the request's body is not the JSON of a change: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return badRequest("the request's body has more in it than the JSON of a change")
	}
	return nil
}

// check holds what a Backend may rely on.
func (c Change) check() error {
	if c.ID == "" {
		return badRequest("the component is missing: POST /v1/components/ID/%s", c.Verb)
	}
	if len(c.Args) > changeArgsMax {
		return badRequest("%d arguments are too many, %d is the limit", len(c.Args), changeArgsMax)
	}
	risk := func(known string) error {
		if c.AcceptRisk != "" && c.AcceptRisk != known {
			return badRequest("%s knows no risk %q; the one to accept is %q", c.Verb, c.AcceptRisk, known)
		}
		return nil
	}
	switch c.Verb {
	case Bringup:
		return risk(drivers.RiskOverwrite)
	case Bringdown:
		return risk(drivers.RiskLastSide)
	case Switch, Reload:
		return nil
	case Machine:
		switch c.Action {
		case MachineStart, MachineStop, MachineReset:
			return nil
		}
		return badRequest("machine needs an action, start, stop or reset: {\"action\": \"start\"}")
	case Dump:
		if c.Out != "" && !filepath.IsAbs(c.Out) {
			return badRequest("a dump goes to a file on the box: %q is no absolute path", c.Out)
		}
		return nil
	case Priority:
		switch c.Level {
		case PriorityLow, PriorityNormal, PriorityHigh:
			return nil
		}
		return badRequest("priority needs a level, low, normal or high: {\"level\": \"low\"}")
	case Reads:
		if _, err := balance.ParseMark(c.Reads); c.Reads == "" || err != nil && c.Reads != ReadsDefault {
			return badRequest("reads needs a side's part in them, balance, prefer, avoid or default: {\"reads\": \"avoid\"}")
		}
		return nil
	case MTBFVerb:
		return c.checkMTBF()
	case Policy:
		return c.checkPolicy()
	case Scrub:
		return c.checkScrub()
	case Replace:
		if (c.Action == ReplaceStart) != (c.Path != "") || c.Action != ReplaceStart && c.Action != ReplaceAbort {
			return badRequest("replace needs an action, start with the path of a device, or abort: {\"action\": \"start\", \"path\": \"/dev/sdc\"}")
		}
		return risk(drivers.RiskOverwrite)
	case Resolve:
		if c.Keep == "" {
			return badRequest("resolve needs the side whose data stays: {\"keep\": \"pci0\"}")
		}
		return nil
	case Inject:
		if c.Fault == "" {
			return badRequest("inject needs a fault: {\"fault\": \"hang\"}")
		}
		return nil
	}
	return badRequest("there is no verb %q for a component; there are %s", c.Verb, listed(verbs[:]))
}

// listed is "a, b and c".
func listed(verbs []Verb) (text string) {
	for i, v := range verbs {
		switch {
		case i > 0 && i == len(verbs)-1:
			text += " and "
		case i > 0:
			text += ", "
		}
		text += string(v)
	}
	return text
}

func badRequest(format string, args ...any) *Error {
	return &Error{Code: CodeBadRequest, Sentence: fmt.Sprintf(format, args...)}
}

func (s *Server) answer(w http.ResponseWriter, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		s.fail(w, fmt.Errorf("encode the answer: %w", err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(b, '\n')) // a reader that has gone is not our problem
}

// fail sends an error as code and sentence.
func (s *Server) fail(w http.ResponseWriter, err error) {
	e, status := wireError(err)
	b, _ := json.Marshal(e)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n'))
}

// wireError is how each kind of error travels.
func wireError(err error) (*Error, int) {
	var (
		wire    *Error
		refused *drivers.Refused
		missing *NoSuchComponent
	)
	switch {
	case errors.As(err, &wire):
	case errors.As(err, &refused):
		return &Error{Code: refused.Code, Sentence: refused.Sentence, Refused: true}, http.StatusConflict
	case errors.As(err, &missing):
		return &Error{Code: CodeNotFound, Sentence: missing.Error()}, http.StatusNotFound
	default:
		return &Error{Code: CodeFailed, Sentence: err.Error()}, http.StatusInternalServerError
	}
	switch wire.Code {
	case CodeNotFound:
		return wire, http.StatusNotFound
	case CodeBadRequest:
		return wire, http.StatusBadRequest
	case CodeNotAllowed:
		return wire, http.StatusMethodNotAllowed
	case CodeForbidden:
		return wire, http.StatusForbidden
	case CodeBusyServer:
		return wire, http.StatusServiceUnavailable
	case CodeFailed:
		return wire, http.StatusInternalServerError
	}
	return wire, http.StatusConflict
}
