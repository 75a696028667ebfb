// Package backend is the host's side of a machine's devices: a disk on a block device or a
// file (disk.go), a network interface through a macvtap or a TAP (network.go), a console on
// a unix socket and in a log (console.go).
//
// It stands outside the module and never touches guest memory: it is given copies of what
// left the machine, and hands back what is to go in, through callbacks on goroutines of its
// own. What it hands back becomes an input of the machine at a step that others choose.
//
// Whatever is slow or hangs out there does not hold up whoever calls: Submit, Transmit and
// Write return at once. What cannot be kept is bounded, dropped and counted (frames, a slow
// watcher's text); requests to a disk are bounded by the machine's own device
// (virtio.BlockDataMax, 128 requests) and never dropped.
package backend
