// Package drill is the fire drill of `ftctl drill`: under loads of its own, which check
// themselves, every part of a box is made to fail in every way that `ftctl inject` knows,
// and given back.
//
// The way of data: plan.go makes steps of a status document and a seed; run.go does one
// after the other, waits for what comes of it (await.go, watch.go) and looks at the loads
// (load.go and the files named after them); book.go keeps the times; report.go makes the
// table of them. plan, book and report are pure: no clock, no I/O.
//
// What a drill must never do is to harm what a person has on the box: a load writes into a
// file of its own that has no name, or to blocks of a disk that nobody uses and that are
// known to be empty (place.go); anywhere else it only reads.
package drill

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"ft/ftd/api"
)

// Kinds of devices, as in the status document.
const (
	kindDisk    = "disk"
	kindNIC     = "nic"
	kindMachine = "machine"
)

// Plan deals out steps: every kind once in each round, in an order that the seed decides,
// and each time in another part until all parts had their turn. So a short drill has seen
// every way of failing, and a long one every part fail in every way.
type Plan struct {
	Seed    uint64
	LeftOut []string // sentences: what is not tried, and why

	random *rand.Rand
	hands  []*hand
	round  []*hand // what is left of this one
	dealt  int
}

// hand is a kind with the parts that it is tried on.
type hand struct {
	kind  *Kind
	parts []Step // templates
	left  []Step
}

// Options of a plan.
type Options struct {
	Seed  uint64
	Parts []string // ids; none for all
	// Supervised: who kills ftd can count on somebody to start it again.
	Supervised bool
}

// NewPlan makes a plan for a box. What Parts names and the box does not have is an error.
func NewPlan(st api.Status, o Options) (*Plan, error) {
	p := &Plan{Seed: o.Seed, random: rand.New(rand.NewPCG(o.Seed, 0))}
	wanted, err := selector(st, o.Parts)
	if err != nil {
		return nil, err
	}
	sound := p.sound(st, wanted)
	for _, k := range kinds {
		h := &hand{kind: k}
		for _, s := range candidates(k, st, sound) {
			if s.ID == ftdID && !o.Supervised {
				if wanted(s) {
					p.leaveOut("ftd is not killed: nobody would start it again, as systemd does, or a test box")
				}
				continue
			}
			if wanted(s) {
				h.parts = append(h.parts, s)
			}
		}
		if len(h.parts) > 0 {
			p.hands = append(p.hands, h)
		}
	}
	if slices.ContainsFunc(p.hands, func(h *hand) bool { return h.kind.On == onLeg }) {
		p.leaveOut("corrupt is not tried: what it spoils lies there until it is read or scrubbed, and the next fault could take the good copy")
	}
	return p, nil
}

// Size is how many steps there are until every part has failed in every way.
func (p *Plan) Size() (n int) {
	for _, h := range p.hands {
		n += len(h.parts)
	}
	return n
}

// Round is how many steps there are until every kind was tried once.
func (p *Plan) Round() int { return len(p.hands) }

// Next is the next step. A plan has no end; one without parts has no step.
func (p *Plan) Next() (Step, bool) {
	if len(p.hands) == 0 {
		return Step{}, false
	}
	if len(p.round) == 0 {
		p.round = slices.Clone(p.hands)
		p.random.Shuffle(len(p.round), func(i, j int) { p.round[i], p.round[j] = p.round[j], p.round[i] })
	}
	h := p.round[0]
	p.round = p.round[1:]
	if len(h.left) == 0 {
		h.left = slices.Clone(h.parts)
		p.random.Shuffle(len(h.left), func(i, j int) { h.left[i], h.left[j] = h.left[j], h.left[i] })
	}
	s := h.left[0]
	h.left = h.left[1:]
	p.dealt++
	s.N = p.dealt
	s.settle(p.random)
	return s, true
}

// hits says whether the plan puts faults into a side, or into anything of its device.
func (p *Plan) hits(side, device string) bool {
	return slices.ContainsFunc(p.hands, func(h *hand) bool {
		return slices.ContainsFunc(h.parts, func(s Step) bool {
			whole := side == "" || !strings.Contains(s.ID, "/")
			return s.ID == side || whole && slices.Contains(s.Devices, device)
		})
	})
}

func (p *Plan) leaveOut(format string, args ...any) {
	if s := fmt.Sprintf(format, args...); !slices.Contains(p.LeftOut, s) {
		p.LeftOut = append(p.LeftOut, s)
	}
}

// sound are the devices that may lose a side: those with two good ones. The rest is said.
func (p *Plan) sound(st api.Status, wanted func(Step) bool) map[string]bool {
	sound := map[string]bool{}
	for _, d := range st.Devices {
		sound[d.ID] = d.State.String() == "duplex" && len(d.Sides) == 2
		if !sound[d.ID] && wanted(Step{ID: d.ID, Devices: []string{d.ID}}) {
			p.leaveOut("%s is left alone: %s", d.ID, d.Verdict)
		}
		if sound[d.ID] && !survivesCrash(d) && wanted(Step{ID: d.ID}) {
			p.leaveOut("the process of %s is not killed: this kernel (before Linux 6.9) would give its users I/O errors", d.ID)
		}
	}
	return sound
}

// candidates are the parts that a kind can be tried on.
func candidates(k *Kind, st api.Status, sound map[string]bool) (steps []Step) {
	add := func(id string, devices ...string) {
		steps = append(steps, Step{Kind: k, ID: id, Devices: devices})
	}
	sideOf := map[target]string{onLeg: kindDisk, onNIC: kindNIC, onCPU: kindMachine}
	moduleOf := map[target]string{onPCIModule: "pci", onCPUModule: "cpu"}
	switch k.On {
	case onLeg, onNIC, onCPU:
		for _, d := range st.Devices {
			for _, s := range d.Sides {
				if d.Kind == sideOf[k.On] && sound[d.ID] {
					add(s.ID, d.ID)
				}
			}
		}
	case onPCIModule, onCPUModule:
		for _, m := range st.Modules {
			devices := devicesIn(m)
			all := len(devices) > 0 && !slices.ContainsFunc(devices, func(d string) bool { return !sound[d] })
			if strings.HasPrefix(m.ID, moduleOf[k.On]) && all {
				add(m.ID, devices...)
			}
		}
	case onProcess:
		for _, d := range st.Devices {
			if d.Kind == k.process && sound[d.ID] && survivesCrash(d) {
				add(d.ID, d.ID)
			}
		}
		if k.process == ftdID {
			add(ftdID)
		}
	}
	return steps
}

// survivesCrash: a mirror tells where its face does not outlive its process.
func survivesCrash(d api.DeviceStatus) bool {
	survives, told := d.Stats["survives_crash"].(bool)
	return survives || !told
}

func devicesIn(m api.ModuleStatus) (devices []string) {
	for _, id := range m.Sides {
		if _, d, ok := strings.Cut(id, "/"); ok {
			devices = append(devices, d)
		}
	}
	return devices
}

// selector says of a step whether it is asked for. A part stands for itself and for what
// belongs to it: disk0 for its legs and its process, pci1 for the module and its sides.
func selector(st api.Status, parts []string) (func(Step) bool, error) {
	for _, id := range parts {
		if _, known := api.FindComponent(st, id); !known && id != ftdID || id == api.SystemID || id == st.System.Name {
			return nil, fmt.Errorf("%w: --parts takes modules, devices and sides as `ftctl ls` has them, and ftd", &api.NoSuchComponent{ID: id})
		}
	}
	return func(s Step) bool {
		if len(parts) == 0 || slices.Contains(parts, s.ID) {
			return true
		}
		module, device, side := strings.Cut(s.ID, "/")
		return side && (slices.Contains(parts, module) || slices.Contains(parts, device))
	}, nil
}
