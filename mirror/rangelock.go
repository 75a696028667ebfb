package mirror

// rangeLock orders requests that overlap: writes exclude, reads share, in order of
// arrival, so that none starves.
type rangeLock struct {
	lo, hi     int64 // bytes, hi excluded
	write      bool
	live       bool // in the table, held or waiting
	blockers   int  // earlier locks that conflict and are still there
	owner      lockOwner
	prev, next *rangeLock
}

// lockOwner is told when its lock is held.
type lockOwner interface{ lockGranted(*Engine) }

// lockTable holds the locks in order of arrival. It is short: as many as the face
// has requests under way, and a few copies.
type lockTable struct{ head, tail *rangeLock }

func (a *rangeLock) conflicts(b *rangeLock) bool {
	return a.lo < b.hi && b.lo < a.hi && (a.write || b.write)
}

// acquire enters l and says whether it is held at once.
func (t *lockTable) acquire(l *rangeLock) bool {
	l.blockers, l.live = 0, true
	for o := t.head; o != nil; o = o.next {
		if l.conflicts(o) {
			l.blockers++
		}
	}
	l.prev, l.next = t.tail, nil
	if t.tail != nil {
		t.tail.next = l
	} else {
		t.head = l
	}
	t.tail = l
	return l.blockers == 0
}

// release removes l and appends the owners of the locks that are held by that.
func (t *lockTable) release(l *rangeLock, ready []lockOwner) []lockOwner {
	for o := l.next; o != nil; o = o.next {
		if l.conflicts(o) {
			if o.blockers--; o.blockers == 0 {
				ready = append(ready, o.owner)
			}
		}
	}
	if l.prev != nil {
		l.prev.next = l.next
	} else {
		t.head = l.next
	}
	if l.next != nil {
		l.next.prev = l.prev
	} else {
		t.tail = l.prev
	}
	l.prev, l.next, l.live = nil, nil, false
	return ready
}

// written says whether a write lock, held or waiting, touches a range.
func (t *lockTable) written(lo, hi int64) bool {
	for o := t.head; o != nil; o = o.next {
		if o.write && o.lo < hi && lo < o.hi {
			return true
		}
	}
	return false
}
