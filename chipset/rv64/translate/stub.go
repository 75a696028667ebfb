package translate

import "ft/chipset/rv64"

// Translator is the machine code of one hart.
type Translator struct {
	stats Stats
}

func attach(*rv64.Hart, Options) (*Translator, error) { return &Translator{}, nil }

// Close makes the hart interpret again and gives the code's memory back. It is called between
// runs.
func (t *Translator) Close() error { return nil }

// Stats is what it has done.
func (t *Translator) Stats() Stats { return t.stats }
