package nbdserver

// What comes back to the server from other threads.

import (
	"fmt"
	"sync"
	"unsafe"

	"ft/mirror/frontend"
	"ft/mirror/nbd"
)

// delivery is one thing that comes back.
type delivery struct {
	part    *part
	freed   bool     // else it is answered
	join    *conn    // to be served: its fd, who and ended
	status  *command // a BLOCK_STATUS
	extents []nbd.Extent
}

// inbox holds deliveries until Receive takes them.
type inbox struct {
	mu     sync.Mutex // guards the fields below, and the bell's descriptor
	list   []delivery
	spare  []delivery // for takeInbox
	closed bool
}

func (s *Server) put(d delivery) {
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	if s.inbox.closed {
		if d.join != nil {
			closeAll(d.join.fd)
			d.join.ended()
		}
		return
	}
	if s.inbox.list = append(s.inbox.list, d); len(s.inbox.list) == 1 {
		ring(s.bell)
	}
}

func (i *inbox) close(bell *int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, d := range i.list {
		if d.join != nil {
			closeAll(d.join.fd)
			d.join.ended()
		}
	}
	i.closed, i.list = true, nil
	closeAll(*bell)
	*bell = -1
}

// quiet silences the bell if it rang for something else than a delivery.
func (s *Server) quiet() {
	s.inbox.mu.Lock()
	defer s.inbox.mu.Unlock()
	if len(s.inbox.list) == 0 {
		drain(s.bell)
	}
}

func (s *Server) takeInbox() {
	s.inbox.mu.Lock()
	if len(s.inbox.list) == 0 {
		s.inbox.mu.Unlock()
		return
	}
	drain(s.bell)
	list := s.inbox.list
	s.inbox.list = s.inbox.spare[:0]
	s.inbox.mu.Unlock()
	for _, d := range list {
		switch {
		case d.join != nil:
			s.joined(d.join)
		case d.status != nil:
			d.status.statusFound(d.extents)
		case d.part == nil: // a call to wake up
		case d.freed:
			d.part.let(heldByEngine)
		default:
			d.part.answered()
		}
	}
	clear(list)
	s.inbox.spare = list
}

// Reply takes the engine's answer to a request. Any thread.
func (s *Server) Reply(r *frontend.Request) {
	p := s.partOf(r)
	if r.Op == frontend.Read && r.Err == 0 && unsafe.SliceData(r.Data) != unsafe.SliceData(p.mem.Data) {
		// It was read to memory of the engine's own, which is the engine's again from now on.
		p.moved = append([]byte(nil), r.Data...)
	}
	s.put(delivery{part: p})
}

// Free takes a request back. Any thread.
func (s *Server) Free(r *frontend.Request) { s.put(delivery{part: s.partOf(r), freed: true}) }

func (s *Server) partOf(r *frontend.Request) *part {
	p, ok := r.Mem.(*part)
	if !ok || r.Queue != frontend.Queue(s) {
		panic(fmt.Sprintf("nbdserver: a %v at %d came back that is not of the disk %s", r.Op, r.Off, s.export.Name))
	}
	return p
}

// Alloc gives no memory: the engine has its own.
func (s *Server) Alloc(int) ([]byte, func()) { return nil, nil }
