//go:build !linux || !amd64

package translate

import "ft/chipset/rv64"

// Translator is the machine code of one hart.
type Translator struct{}

func attach(*rv64.Hart, Options) (*Translator, error) { return nil, supported() }

// Close makes the hart interpret again and gives the code's memory back. It is called between
// runs.
func (t *Translator) Close() error { return nil }

// Poison does nothing.
func (t *Translator) Poison() {}

// Code is memory for machine code.
type Code struct{}

// NewCode makes some.
func NewCode(int) (*Code, error) { return nil, supported() }

// Close gives it back.
func (c *Code) Close() error { return nil }

// Stats is what it has done.
func (t *Translator) Stats() Stats { return Stats{} }
