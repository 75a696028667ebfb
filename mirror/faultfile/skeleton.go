// Package faultfile is for tests: a file served over FUSE by a process of its own
// that can fail, hang, slow down and vanish, to be put under a leg's loop device.
package faultfile

import (
	"syscall"
	"testing"
	"time"
)

// File is a file that can fail.
type File struct{}

// New serves a sparse file of size bytes until the test ends.
func New(t testing.TB, size int64) *File { return nil }

// Path opens as a regular file; the same over Vanish and Return.
func (f *File) Path() string { return "" }

// Backing is the real file behind it.
func (f *File) Backing() string { return "" }

// FailReads makes reads that touch the range fail; length 0 means all.
func (f *File) FailReads(e syscall.Errno, off, length int64) {}

// FailWrites makes writes, zeroings and, for the whole file, flushes that touch the range fail.
func (f *File) FailWrites(e syscall.Errno, off, length int64) {}

// Slow delays every request.
func (f *File) Slow(d time.Duration) {}

// Hang holds every request back until Resume, Vanish or Close.
func (f *File) Hang() {}

// Resume ends Hang; what was held is carried out.
func (f *File) Resume() {}

// Clear ends all but Vanish.
func (f *File) Clear() {}

// Vanish aborts the connection: everything fails from now on, also what is under way.
func (f *File) Vanish() {}

// Return serves the backing file again under the same Path. Loop devices over the vanished file stay dead.
func (f *File) Return() {}

// Held is how many requests Hang or Slow holds back.
func (f *File) Held() int { return 0 }

// Written and Read count the bytes moved within the range since the start; length 0 means all.
func (f *File) Written(off, length int64) int64 { return 0 }

// Read is like Written.
func (f *File) Read(off, length int64) int64 { return 0 }

// Close ends it, also when it hangs.
func (f *File) Close() {}

// Loop attaches a loop device with direct I/O until the test ends, and says its path.
func Loop(t testing.TB, path string) string { return "" }
