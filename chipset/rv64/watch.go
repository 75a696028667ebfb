package rv64

// watch is a place in RAM whose stores somebody wants to know of.
type watch struct {
	off, size uint64
	stored    func(addr, size uint64)
}

// Watch makes the hart call stored behind each store of its instructions to the size bytes
// of RAM at addr, with where and how much was stored; a store across pages is two. stored
// may call ReadRAM, RequestStop and Halt. It is for the few doorbells that lie in RAM:
// stores to their pages take the slow path.
func (h *Hart) Watch(addr, size uint64, stored func(addr, size uint64)) {
	off, ok := h.inRAM(addr)
	if !ok || size == 0 || size > h.ramSize-off {
		panic("rv64.Watch: a place outside RAM")
	}
	h.watches = append(h.watches, watch{off, size, stored})
	h.guardWatches()
}

// guardWatches marks the pages of all watches.
func (h *Hart) guardWatches() {
	for _, w := range h.watches {
		for page := w.off / pageSize; page <= (w.off+w.size-1)/pageSize; page++ {
			h.guard(page, pageWatched)
		}
	}
}

// watchedWritten is called behind a store to a page with watches.
func (h *Hart) watchedWritten(off, size uint64) {
	for _, w := range h.watches {
		if off < w.off+w.size && w.off < off+size {
			w.stored(h.cfg.RAMBase+off, size)
		}
	}
}
