package legio

// ioOS is what the real backend needs beside an IO while it is under way. It is
// empty before the IO is submitted and after it has been handed back.
type ioOS struct {
	leg  *Leg
	ring *Ring         // where it is handed back; nil for a synchronous one
	done chan struct{} // synchronous only: closed when it has ended
	next *IO           // link of the one list that it is on

	slot   uint32 // in ring.table while the kernel has it
	pieces uint8  // iocbs that it is made of
	left   uint8  // of those, how many the kernel still has
	again  bool   // a piece would have blocked: a worker does all of it again
	ended  bool   // the device is through with it; what is left is to hand it back
	passed bool   // the fault layer has let it out: not held a second time

	shadow []byte // stored instead of Buf (fault "corrupt")
}

// payload is the memory that the device reads from or writes to.
func (io *IO) payload() []byte {
	if io.os.shadow != nil {
		return io.os.shadow
	}
	return io.Buf
}

// ioList is a first-in first-out list of IOs linked through os.next: an IO is on at
// most one, so that a queue of any length costs no memory of its own.
type ioList struct{ head, tail *IO }

func (l *ioList) push(io *IO) {
	io.os.next = nil
	if l.tail == nil {
		l.head = io
	} else {
		l.tail.os.next = io
	}
	l.tail = io
}

func (l *ioList) pop() *IO {
	io := l.head
	if io == nil {
		return nil
	}
	if l.head = io.os.next; l.head == nil {
		l.tail = nil
	}
	io.os.next = nil
	return io
}

// take empties the list and returns what was on it.
func (l *ioList) take() ioList {
	all := *l
	*l = ioList{}
	return all
}
