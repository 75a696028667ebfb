//go:build linux

package translate

import "ft/chipset/rv64"

func (e *emitter) floatMemory(o *rv64.CodeOp) { e.jmp(e.toSlow()) }

func (e *emitter) float(o *rv64.CodeOp) { e.jmp(e.toSlow()) }
