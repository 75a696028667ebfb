package legio

// ioOS is what the real backend needs beside an IO.
type ioOS struct{}
