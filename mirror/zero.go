package mirror

// zeroPiece bounds what a discard or write-zeroes asks of a leg at once, in bytes. One
// request may cover gigabytes; its pieces go one after the other.
const zeroPiece = int64(64 << 20)

// zeroStart begins or goes on with a zero request whose whole range is locked.
func (e *Engine) zeroStart(q *request) {
	if q.at == q.r.Off && q.n == q.r.Len {
		e.counters.Zeroes++
	}
	if q.n > e.zeroPiece {
		q.n = e.zeroPiece
	}
	e.writeStart(q)
}

// zeroNext goes on with the next piece, and says whether there is one.
func (e *Engine) zeroNext(q *request) bool {
	q.at += q.n
	if q.at == q.r.Off+q.r.Len {
		q.at -= q.n
		return false
	}
	q.n = min(e.zeroPiece, q.r.Off+q.r.Len-q.at)
	e.ready = append(e.ready, q)
	return true
}
