package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"

	"ft/drivers"
	"ft/drivers/unixhttp"
)

// mux is the control socket: the driver's methods, one path each.
func (h *host) mux() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("GET /status", h.getStatus)
	m.Handle("GET /events", h.events)
	m.HandleFunc("POST /attach", call(h, func(ctx context.Context, q attachRequest) (any, error) {
		if err := sideOf(q.Side); err != nil {
			return nil, err
		}
		return nil, h.drv.Attach(ctx, q.Side, q.Resource)
	}))
	m.HandleFunc("POST /detach", h.postDetach)
	m.HandleFunc("POST /switch", call(h, func(ctx context.Context, _ struct{}) (any, error) {
		return nil, h.drv.Switch(ctx)
	}))
	m.HandleFunc("POST /inject", call(h, func(ctx context.Context, q injectRequest) (any, error) {
		if q.Side != drivers.Whole {
			if err := sideOf(q.Side); err != nil {
				return nil, err
			}
		}
		return nil, h.drv.Inject(ctx, q.Side, q.Fault)
	}))
	m.HandleFunc("POST /command", call(h, h.command))
	m.HandleFunc("POST /stop", h.postStop)
	m.HandleFunc("POST /restore", h.postRestore)
	return m
}

// call makes a handler of a call into the started driver.
func call[Q any](h *host, f func(context.Context, Q) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := unixhttp.Read(w, r, &q); err != nil {
			unixhttp.WriteBadRequest(w, err)
			return
		}
		if err := h.ready(); err != nil {
			unixhttp.WriteError(w, err)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
		defer cancel()
		ans, err := f(ctx, q)
		if err != nil {
			unixhttp.WriteError(w, err)
			return
		}
		if ans == nil {
			ans = struct{}{}
		}
		unixhttp.Write(w, ans)
	}
}

// ready refuses what needs a driver that is started and not stopped.
func (h *host) ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.started:
		return drivers.Refuse(drivers.RuleState, "%s is still starting; try again when it is ready", h.cfg.Name)
	case h.ended != "":
		return drivers.Refuse(drivers.RuleState, "%s has been stopped", h.cfg.Name)
	}
	return nil
}

func sideOf(s drivers.Side) error {
	if !s.Valid() {
		return drivers.Refuse(drivers.RuleState, "there is no side %d, only 0 and 1", s)
	}
	return nil
}

func (h *host) getStatus(w http.ResponseWriter, _ *http.Request) {
	st := h.drv.Status()
	st.Pid = os.Getpid()
	stats := maps.Clone(st.Stats) // the driver's own map may be in use elsewhere
	if stats == nil {
		stats = map[string]any{}
	}
	stats["host"] = h.hostStats()
	st.Stats = stats
	unixhttp.Write(w, st)
}

func (h *host) command(ctx context.Context, q commandRequest) (any, error) {
	c, ok := h.drv.(drivers.Commander)
	if !ok {
		return nil, drivers.Refuse(drivers.RuleState, "a driver of kind %s has no commands, so no %q", h.cfg.Kind, q.Name)
	}
	return c.Command(ctx, q.Name, q.Args)
}

// postDetach answers with one line when the side is out and, where asked for, with a
// second one when its I/O has ended, so that a client may give up waiting and still
// know that the side is out.
func (h *host) postDetach(w http.ResponseWriter, r *http.Request) {
	var q detachRequest
	if err := unixhttp.Read(w, r, &q); err != nil {
		unixhttp.WriteBadRequest(w, err)
		return
	}
	err := h.ready()
	if err == nil {
		err = sideOf(q.Side)
	}
	if err != nil {
		unixhttp.WriteError(w, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	drain, err := h.drv.Detach(ctx, q.Side, q.Reason)
	if err != nil {
		unixhttp.WriteError(w, err)
		return
	}
	drained := drain == nil
	if !drained {
		select {
		case <-drain:
			drained = true
		default:
		}
	}
	enc := json.NewEncoder(w)
	w.Header().Set("Content-Type", "application/jsonl")
	if enc.Encode(detachAnswer{drained}) != nil || drained || !q.WaitDrain {
		return
	}
	if http.NewResponseController(w).Flush() != nil {
		return
	}
	select {
	case <-drain:
		_ = enc.Encode(detachAnswer{true}) // the client may have gone
	case <-r.Context().Done():
	case <-h.end:
	}
}

func (h *host) postStop(w http.ResponseWriter, r *http.Request) {
	q := stopRequest{Mode: drivers.Remove}
	if err := unixhttp.Read(w, r, &q); err != nil {
		unixhttp.WriteBadRequest(w, err)
		return
	}
	switch q.Mode {
	case drivers.Remove, drivers.RemoveForce, drivers.HandOver:
	default:
		unixhttp.WriteBadRequest(w, fmt.Errorf("no stop mode %q", q.Mode))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
	defer cancel()
	if err := h.stop(ctx, q.Mode); err != nil {
		unixhttp.WriteError(w, err)
		return
	}
	unixhttp.Write(w, struct{}{})
}

// postRestore serves a keeper that has lost its memory.
func (h *host) postRestore(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), storeTimeout)
	defer cancel()
	stored, err := h.kept.restore(ctx)
	if err == nil {
		err = h.sender.Confirm(ctx, h.report.state())
	}
	if err != nil {
		unixhttp.WriteError(w, fmt.Errorf("hand everything to the keeper again: %w", err))
		return
	}
	unixhttp.Write(w, restoreAnswer{stored})
}
