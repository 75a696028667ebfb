package mirror

import (
	"fmt"
	"syscall"
)

// Stop ends the engine cleanly: everything stable, the marks taken back, the legs
// recorded as clean. No request may be under way. done must not block.
func (e *Engine) Stop(done func(error)) {
	e.stopping, e.stopDone = true, done
	parked := e.parked
	e.parked = nil
	for _, q := range parked {
		q.finish(e, syscall.EIO)
	}
	e.replaceStopped()
	for i := range e.legs {
		if l := &e.legs[i]; l.state > legShot && l.state < legIn {
			e.cut(l, legOut, "the disk is being stopped", "")
		}
	}
	if e.in() == 0 || !e.made {
		e.stopped(nil)
		return
	}
	e.stopPhase = stopMarks
	e.stopStep()
	e.run()
}

// stopPhase is how far Stop is.
type stopPhase uint8

const (
	stopNone  stopPhase = iota
	stopMarks           // the marks are taken back
	stopClean           // the legs are recorded as clean
)

// stopStep goes on with Stop when what it waits for has ended.
func (e *Engine) stopStep() {
	if !e.stopping || e.stopDone == nil {
		return
	}
	switch e.stopPhase {
	case stopMarks:
		if e.intent.busy || e.intent.clearing || e.stopTried && e.marked.Count() > 0 && e.in() != 0 {
			if e.stopTried && !e.intent.busy && !e.intent.clearing {
				e.stopped(fmt.Errorf("%s: some extents stay marked; they are compared at the next start", e.name))
			}
			return
		}
		if e.in() == 0 {
			e.stopped(fmt.Errorf("%s: %s", e.name, e.downWhy))
			return
		}
		if e.marked.Count() > 0 {
			e.stopTried = true
			e.touched.Reset()
			c := e.idleMarks()
			if c.Count() == 0 {
				e.stopped(fmt.Errorf("%s: some extents stay marked; they are compared at the next start", e.name))
				return
			}
			e.clearMarks(c)
			return
		}
		e.stopPhase = stopClean
		e.stopStep()
	case stopClean:
		switch {
		case e.recorder.busy:
		case e.in() == 0:
			e.stopped(fmt.Errorf("%s: %s", e.name, e.downWhy))
		case e.durable.version != e.want.version:
			// A leg was lost meanwhile, say; the recorder is about to start, or has failed.
			if e.recorder.err != nil {
				e.stopped(e.recorder.err)
			}
		case !e.want.clean && e.recorded():
			// Marks that were taken back need no flush; the clean flag says that there are none.
			e.want.clean = true
			e.changed(-1)
		default:
			e.stopped(nil)
		}
	}
}

func (e *Engine) stopped(err error) {
	done := e.stopDone
	e.stopDone = nil
	if done != nil {
		done(err)
	}
}
