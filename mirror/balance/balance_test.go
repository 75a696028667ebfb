package balance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// Each file of testdata is a story: lines of what happens, each followed by what the
// balancer says to it, and why.
func TestStories(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("there are no stories: ", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := story{now: int64(time.Second)}
			var out strings.Builder
			for line := range strings.Lines(string(text)) {
				line = strings.TrimRight(line, "\n")
				if strings.HasPrefix(line, "  ") {
					continue // what was said
				}
				fmt.Fprintln(&out, line)
				if line == "" || strings.HasPrefix(line, "#") {
					continue
				}
				if said := s.tell(t, strings.Fields(line)); said != "" {
					fmt.Fprintln(&out, "  "+said)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if out.String() != string(text) {
				t.Errorf("it is now so:\n%s", out.String())
			}
		})
	}
}

// story is a balancer and what its legs have under way.
type story struct {
	b     Balancer
	now   int64
	under [2][]underWay
}

type underWay struct{ n, began int64 }

// tell makes one thing happen:
//
//	marks M M             the legs are marked
//	pass TIME             time goes by
//	read OFF N [from L]   a read, which only leg L can have
//	reads COUNT OFF STEP N   several, each STEP further
//	write N               to both legs
//	answer L [COUNT]      the leg ends its oldest
//	busy COUNT T0 T1 N    COUNT rounds of one read of N bytes, answered at once after the time
//	                      of the leg that has it, and the probes of the other
//	late L N              how long a read of N bytes may take on the leg
//	islate L              a read is late
//	gone L                the leg goes
func (s *story) tell(t *testing.T, w []string) string {
	t.Helper()
	switch w[0] {
	case "marks":
		var m [2]Mark
		for i := range m {
			if err := m[i].UnmarshalText([]byte(w[1+i])); err != nil {
				t.Fatal(err)
			}
		}
		s.b.SetMarks(m)
	case "pass":
		s.now += duration(t, w[1])
	case "read":
		can := uint8(Both)
		if len(w) > 3 {
			can = 1 << size(t, w[4])
		}
		return s.read(can, size(t, w[1]), size(t, w[2]))
	case "reads":
		var says []string
		for i := range size(t, w[1]) {
			says = append(says, s.read(Both, size(t, w[2])+i*size(t, w[3]), size(t, w[4])))
		}
		return counted(says)
	case "write":
		for i := range s.under {
			s.begin(i, size(t, w[1]))
		}
	case "answer":
		side, n := size(t, w[1]), int64(1)
		if len(w) > 2 {
			n = size(t, w[2])
		}
		for range n {
			s.answer(int(side))
		}
	case "busy":
		var to, probes [2]int
		took, n := [2]int64{duration(t, w[2]), duration(t, w[3])}, size(t, w[4])
		for i := range size(t, w[1]) {
			side, _ := s.b.Choose(Both, i*7919<<20, n, s.now)
			to[side]++
			if s.b.Probe(side, n, s.now) {
				probes[1-side]++
				s.b.Took(1-side, n, took[1-side], s.now+took[1-side])
				s.b.ProbeEnded(1 - side)
			}
			s.now += took[side]
			s.b.Took(side, n, took[side], s.now)
		}
		return fmt.Sprintf("leg 0: %d, leg 1: %d, probes: %d and %d", to[0], to[1], probes[0], probes[1])
	case "late":
		if d := s.b.LateAfter(int(size(t, w[1])), size(t, w[2]), int64(5*time.Second)); d > 0 {
			return "after " + time.Duration(d).String()
		}
		return "never"
	case "islate":
		s.b.Late(int(size(t, w[1])))
	case "gone":
		s.b.Forget(int(size(t, w[1])))
	default:
		t.Fatalf("what is %q?", w[0])
	}
	return ""
}

func (s *story) read(can uint8, off, n int64) string {
	side, sequential := s.b.Choose(can, off, n, s.now)
	s.begin(side, n)
	return fmt.Sprintf("leg %d%s", side, map[bool]string{true: ", sequential"}[sequential])
}

func (s *story) begin(side int, n int64) {
	s.b.Began(side, n)
	s.under[side] = append(s.under[side], underWay{n, s.now})
}

func (s *story) answer(side int) {
	u := s.under[side][0]
	s.under[side] = s.under[side][1:]
	s.b.Ended(side, u.n)
	s.b.Took(side, u.n, s.now-u.began, s.now)
}

// counted says of equal sayings how many they are.
func counted(says []string) string {
	var order []string
	n := map[string]int{}
	for _, x := range says {
		if n[x] == 0 {
			order = append(order, x)
		}
		n[x]++
	}
	for i, x := range order {
		order[i] = fmt.Sprintf("%d × %s", n[x], x)
	}
	return strings.Join(order, "; ")
}

func duration(t *testing.T, s string) int64 {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return int64(d)
}

// size reads 4k, 1m, 17.
func size(t *testing.T, s string) (n int64) {
	t.Helper()
	unit := ""
	if _, err := fmt.Sscanf(s, "%d%s", &n, &unit); err != nil && unit != "" {
		t.Fatalf("%q: %v", s, err)
	}
	switch unit {
	case "k":
		n <<= 10
	case "m":
		n <<= 20
	case "g":
		n <<= 30
	}
	return n
}

func TestTheNewestWordAboutALegHolds(t *testing.T) {
	said := Word{Said: true, Mark: Avoid, Configured: Prefer}
	for _, c := range []struct {
		word       Word
		configured Mark
		want       Mark
	}{
		{Word{}, Prefer, Prefer},
		{said, Prefer, Avoid},    // as the file was when it was said
		{said, Balance, Balance}, // the file was changed since
	} {
		if got := c.word.Over(c.configured); got != c.want {
			t.Errorf("%+v over %v: %v, want %v", c.word, c.configured, got, c.want)
		}
	}
}

// The balancer is in the way of each read.
func BenchmarkChoose(b *testing.B) {
	var x Balancer
	b.ReportAllocs()
	for i := int64(1); b.Loop(); i++ {
		off := i * 2654435761 % (1 << 40) &^ 4095
		side, _ := x.Choose(Both, off, 4096, i*1000)
		x.Began(side, 4096)
		x.Ended(side, 4096)
		x.Took(side, 4096, 80_000, i*1000)
	}
}
