package main

import (
	"errors"
	"fmt"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"ft/ftd/api"
)

func TestDurations(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0:00", -time.Second: "0:00", 400 * time.Millisecond: "0:00", 41 * time.Second: "0:41", 59600 * time.Millisecond: "1:00",
		59*time.Minute + 59*time.Second: "59:59", time.Hour: "1:00:00", 47*time.Hour + 61*time.Second: "47:01:01", 76 * time.Hour: "3 d 4 h",
	} {
		if got := humanDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

func TestSizesAndRates(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B 0 B/s", 999: "999 B 999 B/s", 1000: "1000 B 1 kB/s", 1024: "1 KiB 1 kB/s", 1_100_000_000: "1 GiB 1.1 GB/s",
		212_400_000: "203 MiB 212 MB/s", 999_960_000: "954 MiB 1 GB/s", 1 << 30: "1 GiB 1.1 GB/s", 3 << 29: "1.5 GiB 1.6 GB/s", 1<<63 - 1: "8192 PiB 9223372 TB/s",
	} {
		if got := humanSize(n) + " " + humanRate(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestABarIsAlwaysAsWide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.Float64Range(-10, 110).Draw(t, "percent")
		if n := utf8.RuneCountInString(bar(p)); n != barCells {
			t.Fatalf("%d cells for %v %%", n, p)
		}
	})
	if got := bar(61); got != "███████████▌░░░░░░░" {
		t.Error(got)
	}
}

func TestClipCountsWhatIsSeen(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"abcdef", "abcd…\x1b[0m"}, {"abcde", "abcde"}, {"\x1b[32mabcdef\x1b[0m", "\x1b[32mabcd…\x1b[0m"}, {"\x1b[32mabc\x1b[0m", "\x1b[32mabc\x1b[0m"}, {"█████", "█████"}, {"██████", "████…\x1b[0m"},
	} {
		if got := clip(c.in, 5); got != c.want {
			t.Errorf("%q: %q, want %q", c.in, got, c.want)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{usagef("x"), 2},
		{&api.Error{Code: api.CodeBadRequest}, 2},
		{fmt.Errorf("wait: %w", &api.Error{Code: "last-side", Refused: true}), 3},
		{&api.Error{Code: api.CodeForbidden, Refused: true}, 3},
		{&api.Error{Code: api.CodeUnreachable}, 4},
		{&api.Error{Code: api.CodeNotFound}, 1},
		{&api.Error{Code: api.CodeFailed}, 1},
		{exit{2}, 2},
	} {
		if got := (&app{started: true}).exitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
}
