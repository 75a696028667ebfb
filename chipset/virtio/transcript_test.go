package virtio

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays testdata/*.txt: lines are what a driver or the outside does,
// indented lines below them what can be seen of it. Lines with # are the story. `go test
// -update` writes what the devices do now; the diff is then to be read.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("the device does something else (- written, + done):\n%s", diff)
			}
		})
	}
}

// player is a guest, the outside, and what is seen.
type player struct {
	*guest
	t       *testing.T
	out     strings.Builder
	ids     []uint64 // of requests that left, by number from 1
	chains  []uint16 // heads that were made available, by number from 1
	status  []uint64 // of block requests, by the same number; 0 for others
	last    Info
	wasLine bool
}

func play(t *testing.T, text string) string {
	p := &player{guest: newGuest(t), t: t}
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "    ") {
			continue // what was seen when it was written
		}
		p.out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p.command(strings.Fields(line))
		p.see()
	}
	return p.out.String()
}

func (p *player) say(format string, args ...any) { fmt.Fprintf(&p.out, "       "+format+"\n", args...) }

// number is the value of key=N among the words.
func (p *player) number(w []string, key string, otherwise uint64) uint64 {
	for _, s := range w {
		if v, ok := strings.CutPrefix(s, key+"="); ok {
			n, err := strconv.ParseUint(v, 0, 64)
			if err != nil {
				p.t.Fatalf("%v: %v", w, err)
			}
			return n
		}
	}
	return otherwise
}

func (p *player) has(w []string, word string) bool {
	for _, s := range w {
		if s == word {
			return true
		}
	}
	return false
}

func (p *player) command(w []string) {
	n := func(i int) int {
		v, err := strconv.Atoi(w[i])
		if err != nil {
			p.t.Fatalf("%v: %v", w, err)
		}
		return v
	}
	switch w[0] {
	case "block":
		d, err := NewBlock(slot, p, p, BlockConfig{Sectors: p.number(w, "sectors", 2048), ReadOnly: p.has(w, "ro"), Serial: "disk1", Discard: true, WriteZeroes: true})
		p.made(d, err)
	case "net":
		d, err := NewNet(slot, p, p, NetConfig{MAC: [6]byte{2}, MTU: 1500, Offloads: p.has(w, "offloads")})
		p.made(d, err)
	case "console":
		p.made(NewConsole(slot, p, p), nil)
	case "entropy":
		p.made(NewEntropy(slot, p, p), nil)
	case "start":
		p.start(p.features(w), uint32(p.number(w, "size", 16)))
	case "reset":
		p.write(regStatus, 0)
	case "stop": // a queue
		p.write(regQueueSel, uint32(n(1)))
		p.write(regQueueReady, 0)
	case "request":
		p.request(w)
	case "answer":
		p.answer(n(1), w)
	case "buffer":
		size := int(p.number(w, "size", 2048))
		p.add(n(1), buffer{p.allocate(size), size, true})
	case "send":
		data := make([]byte, p.number(w, "size", 100))
		if len(w) > 2 && w[2][0] == '"' {
			data = []byte(strings.Trim(w[2], `"`))
		}
		p.add(n(1), buffer{p.put(data), len(data), false})
	case "receive":
		if w[1][0] == '"' {
			p.say("taken: %d", p.dev.Receive([]byte(strings.Trim(w[1], `"`))))
		} else {
			p.say("taken: %d", p.dev.Receive(packet(n(1)-NetHeader)))
		}
	case "link":
		p.dev.(*Net).SetLink(w[1] == "up")
	case "harvest":
		p.harvest()
	case "index": // of the available ring, by force
		p.queues[n(1)].setU16(p.queues[n(1)].avail+2, uint16(n(2)))
		p.write(regQueueNotify, uint32(n(1)))
	case "move": // to another process
		fresh, d := newGuest(p.t), p.dev
		fresh.dev = devices(p.t, p.guest)[d.Info().Kind]
		if err := fresh.dev.LoadState(d.SaveState(nil)); err != nil {
			p.t.Fatal(err)
		}
		p.dev = fresh.dev
	default:
		p.t.Fatalf("%v: there is no such command", w)
	}
}

func (p *player) made(d Device, err error) {
	if err != nil {
		p.t.Fatal(err)
	}
	p.dev = d
	p.say("offers %#x", p.offered())
}

func (p *player) features(w []string) uint64 {
	f := ^uint64(0)
	for word, bit := range map[string]uint64{"no-indirect": featureIndirect, "no-event-idx": featureEventIdx, "no-flush": featureBlockFlush, "no-mergeable": featureNetMergeable} {
		if p.has(w, word) {
			f &^= bit
		}
	}
	return f
}

// add makes a chain available and notifies, if the device wants that.
func (p *player) add(queue int, list ...buffer) {
	q := p.queues[queue]
	before, notified := q.availIdx, q.notifications
	p.chains = append(p.chains, q.add(list...))
	for len(p.status) < len(p.chains) {
		p.status = append(p.status, 0)
	}
	if q.kick(before); q.notifications == notified {
		p.say("no notification wanted")
	}
}

func (p *player) request(w []string) {
	kind, ok := map[string]uint32{"in": blockIn, "out": blockOut, "flush": blockFlush, "id": blockGetID, "discard": blockDiscard, "zeroes": blockWriteZeroes}[w[1]]
	if !ok {
		p.t.Fatalf("%v: what kind?", w)
	}
	sector, bytes := p.number(w, "sector", 0), int(p.number(w, "bytes", 0))
	h := binary.LittleEndian.AppendUint32(nil, kind)
	h = binary.LittleEndian.AppendUint64(append(h, 0, 0, 0, 0), sector)
	list := []buffer{{p.put(h), len(h), false}}
	if kind == blockDiscard || kind == blockWriteZeroes {
		r := binary.LittleEndian.AppendUint64(nil, sector)
		r = binary.LittleEndian.AppendUint32(r, uint32(bytes/SectorSize))
		list = append(list, buffer{p.put(append(r, 0, 0, 0, 0)), blockRange, false})
	} else if bytes > 0 {
		list = append(list, buffer{p.allocate(bytes), bytes, kind == blockIn || kind == blockGetID})
	}
	status := p.put([]byte{0xff})
	p.status = append(p.status, status)
	p.add(0, append(list, buffer{status, 1, true})...)
}

func (p *player) answer(number int, w []string) {
	c := &Completion{ID: p.ids[number-1], Data: make([]byte, p.number(w, "bytes", 0))}
	if p.has(w, "error") {
		c.Status = IOError
	}
	p.dev.Complete(c)
}

// harvest is the driver's interrupt handler.
func (p *player) harvest() {
	if v := p.acknowledge(); v != 0 {
		p.say("interrupt: %s", [...]string{"", "used", "config", "used, config"}[v])
	}
	for _, q := range p.queues {
		if q == nil || p.dev.Info().Phase != PhaseLive {
			continue
		}
		for _, u := range q.harvest() {
			line := fmt.Sprintf("queue %d: chain #%d is back, %d bytes written", q.index, p.chain(u.head), u.written)
			if at := p.status[p.chain(u.head)-1]; at != 0 {
				line += fmt.Sprintf(", status %d", p.mem(at, 1)[0])
			}
			p.say("%s", line)
		}
	}
}

// chain is the number of the chain that a head was last used for.
func (p *player) chain(head uint16) int {
	for i := len(p.chains) - 1; i >= 0; i-- {
		if p.chains[i] == head {
			return i + 1
		}
	}
	return 0
}

// see writes down what has changed.
func (p *player) see() {
	for _, r := range p.sent() {
		if r.ID != 0 {
			p.ids = append(p.ids, r.ID)
			p.say("leaves #%d: %v", len(p.ids), r)
		} else {
			p.say("leaves: %v", r)
		}
	}
	i := p.dev.Info()
	if i.Phase != p.last.Phase {
		p.say("%v → %v", p.last.Phase, i.Phase)
		if i.Violation != ViolationNone {
			p.say("because: %v", i.Violation)
		}
	}
	if i.Dropped != p.last.Dropped {
		p.say("dropped: %d", i.Dropped-p.last.Dropped)
	}
	p.last = i
	if p.line != p.wasLine {
		p.say("line %s", map[bool]string{true: "high", false: "low"}[p.line])
		p.wasLine = p.line
	}
}
