package campaign

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"ft/chipset/bare"
	"ft/chipset/cpu"
	"ft/chipset/duplex"
	"ft/chipset/lockstep"
	"ft/chipset/rv64"
)

// golden is what the program comes to without a fault.
type golden struct {
	end                bare.Result
	steps, fingerprint uint64
	output             []byte
	pages              []uint64 // digests of memory at the end
	used               []uint32 // pages that the program has, or has written
	state              uint64   // digest, of two modules
}

// alone runs the program by itself.
func (c *Config) alone() (*golden, error) {
	ram, err := unix.Mmap(-1, 0, int(c.Memory), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("get %d bytes of memory for the program: %w", c.Memory, err)
	}
	defer unix.Munmap(ram)
	var out bytes.Buffer
	m, err := bare.New(bare.Config{RAM: ram, Compare: rv64.EveryStep, Console: &out, Errors: &out}, c.Program)
	if err != nil {
		return nil, err
	}
	end, err := m.Run(c.MaxSteps)
	switch {
	case err != nil:
		return nil, fmt.Errorf("without a fault, after %d steps: %w", m.Steps(), err)
	case end.Ending != bare.Exited:
		return nil, fmt.Errorf("without a fault it does not end within %d steps; a campaign needs a program that does (--max-steps allows more, --memory gives it more memory)", m.Steps())
	}
	g := &golden{end: end, steps: m.Steps(), fingerprint: m.Fingerprint(), output: out.Bytes(), pages: digests(ram), used: c.Program.Pages()}
	zero := cpu.DigestPage(make([]byte, pageSize))
	for i, d := range g.pages {
		if _, is := slices.BinarySearch(g.used, uint32(i)); !is && d != zero {
			g.used = append(g.used, uint32(i))
		}
	}
	return g, nil
}

func digests(ram []byte) []uint64 {
	list := make([]uint64, len(ram)/pageSize)
	for i := range list {
		list[i] = cpu.DigestPage(ram[i*pageSize:][:pageSize])
	}
	return list
}

// golden runs the program by itself and on two modules, without a fault.
func (c *Config) golden(ctx context.Context) (*golden, error) {
	g, err := c.alone()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	m, err := duplex.Start(duplex.Config{Program: c.Program, Memory: c.Memory, Compare: rv64.EveryStep, Console: &out})
	if err != nil {
		return nil, err
	}
	defer m.Close()
	r, err := m.Run(ctx)
	if err != nil {
		return nil, err
	}
	g.state, _ = m.Agreed()
	if left, inside := g.differs(m, r, out.Bytes()); left+inside != "" {
		return nil, fmt.Errorf("on two CPU modules without a fault %s", left+inside)
	}
	return g, nil
}

// differs says in what the end of a run differs from what it should be: in what left the
// machine, and in what is inside; "" for nothing.
func (g *golden) differs(m *duplex.Machine, r duplex.Result, out []byte) (left, inside string) {
	switch {
	case r.Lost != "":
		return "it could not go on: " + r.Lost, ""
	case !bytes.Equal(out, g.output):
		return fmt.Sprintf("it printed %d bytes that are not the %d that are right", len(out), len(g.output)), ""
	case r.Ending != bare.Exited || r.Failed != nil || min(g.end.Status, 1<<32-1) != r.Status:
		return fmt.Sprintf("it ended with status %d, right is %d", r.Status, g.end.Status), ""
	case r.Steps != g.steps || r.Fingerprint != g.fingerprint:
		return "", fmt.Sprintf("it ended at step %d with fingerprint %#x, right is %d with %#x", r.Steps, r.Fingerprint, g.steps, g.fingerprint)
	}
	if state, _ := m.Agreed(); state != g.state {
		return "", fmt.Sprintf("it ended in the state %#x, right is %#x", state, g.state)
	}
	for s := range lockstep.Side(2) {
		if ram := m.Memory(s); ram != nil {
			if d := digests(ram); !slices.Equal(d, g.pages) {
				return "", fmt.Sprintf("the memory of %v is another one at the end", s)
			}
		}
	}
	return "", ""
}
