package port

// Gauges are numbers that a module shows, for people to look at. They are no part of what is
// compared, and nothing is decided by them: a module can write what it likes.
type Gauges [16]uint64

// Show stores the module's gauges. Those who look may see some of the words of the last time.
func (m *Module) Show(g *Gauges) {
	for i, v := range g {
		m.mem.store(offGauges+8*i, v)
	}
}

// Gauges are the module's, as it last showed them.
func (c *Chipset) Gauges() (g Gauges) {
	for i := range g {
		g[i] = c.mem.load(offGauges + 8*i)
	}
	return g
}
