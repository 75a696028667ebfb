// Package frontend is what a mirror's face and its engine say to each other: block
// requests with their buffers, and the queues that they come from. The frontends
// themselves (fuseloop, ublk, nbd, nbdserver) are packages below this one.
package frontend

import (
	"syscall"
	"time"
)

// Op is what a request of the face asks for.
type Op uint8

// Operations on the face.
const (
	Read  Op = iota
	Write    // acknowledged when it is on every in-service leg
	Flush    // everything acknowledged before it becomes stable
	Zero     // discard and write-zeroes alike: the range reads as zeroes afterwards
)

func (o Op) String() string { return [...]string{"read", "write", "flush", "zero"}[o] }

// Request is one request of the face. The queue that received it owns it before
// Receive emits it and after Free; the engine owns it in between.
type Request struct {
	Op  Op
	Off int64 // bytes, multiple of the logical block size
	Len int64 // bytes; for Read and Write len(Data)
	// Data is the payload: what to write, or where to read to. Memory aligned to 4096.
	Data []byte
	// Err is the answer: 0, or the error that the application sees.
	Err syscall.Errno

	// Queue is where it came from and where its answer goes.
	Queue Queue
	// Tag is the queue's own (for FUSE the request's unique number).
	Tag uint64
	// Mem is the queue's own: what Data lies in.
	Mem any

	// Engine is the engine's own part.
	Engine any
}

// Queue is one stream of requests, served by one event-loop thread.
type Queue interface {
	// Fd is polled for input (POLLIN): readable while Receive has something to do, and
	// so not while the queue waits for memory. It stays the same, and must not be polled
	// any more once Receive has returned ErrClosed.
	Fd() int
	// Receive takes what is there, up to a bound, and emits each request. It never
	// blocks. Control messages of the protocol are answered inside. It returns
	// ErrClosed when the face is gone.
	Receive(emit func(*Request)) error
	// Reply sends the answer (Err, and Data for a Read). It never blocks. Each
	// request is answered exactly once. The request and Data stay valid.
	Reply(r *Request)
	// Free takes the request and its memory back: it has been answered and no leg
	// I/O refers to its memory any more. May be called from any thread.
	Free(r *Request)
	// Alloc gives memory aligned to 4096 for an engine-internal copy (a read that is
	// tried again on the other leg while the first may still write to Data), and its
	// release. It is bounded: nil when there is none.
	Alloc(n int) (buf []byte, release func())
}

// Waiter is a queue in which its thread waits for all that it waits for: with one system call
// the kernel is given the answers, and the thread sleeps until there is something. Only the
// thread that calls Receive calls these.
type Waiter interface {
	Queue
	// Watch has Wait end whenever one of fds is signalled. They are eventfds, which need not be
	// read: each signal counts, whatever came before.
	Watch(fds ...int) error
	// Wait waits for at most limit. It says which of the watched descriptors were signalled, bit
	// i for the i-th, and whether Receive has something to do. quick keeps the wait from the Go
	// runtime: for short ones.
	Wait(limit time.Duration, quick bool) (signalled uint32, asked bool)
	// ReplyHere is Reply, which the next Wait sends.
	ReplyHere(r *Request)
}

// Face is a running frontend.
type Face interface {
	// Queues are fixed for the life of the face.
	Queues() []Queue
	// Device is the path of the block device, e.g. /dev/loop7.
	Device() string
	// Users tells how many others hold the device open or mounted, with names where
	// they can be found out ("mounted on /mnt", "pid 123 (fio)").
	Users() (n int, who []string)
	// Close takes the face down, whoever uses it. The queues must be served until it
	// returns: it writes back what is in the page cache. Their Receive returns ErrClosed
	// after it.
	Close() error
}

// Geometry is what a face presents.
type Geometry struct {
	Name          string // of the disk
	Size          int64  // bytes
	LogicalBlock  int    // bytes
	PhysicalBlock int    // bytes
}

type closedError struct{}

func (closedError) Error() string { return "the face is closed" }

// ErrClosed is returned by Queue.Receive when the face is gone.
var ErrClosed error = closedError{}
