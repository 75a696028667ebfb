package nic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Book remembers on disk how the NICs of a bond were before it changed them, so that any
// later process can put them back.
//
// Invariants:
//   - A change is in the file, on stable storage, before it is on the NIC. After a crash
//     at any point Prepare goes on, and Restore puts back, as if there had been none.
//   - An original is the last value that was not ours. What a process of ours has set is
//     known as such by whoever opens the book later.
//   - What is not as we set it is somebody else's and is left alone.
//   - A record is good for one network interface of one namespace in one boot. Another
//     interface, also the same NIC taken out and put in again, begins anew.
type Book struct {
	path  string
	boot  string // /proc/sys/kernel/random/boot_id
	netns uint64 // this namespace, in this boot

	mu     sync.Mutex
	sides  [2]*record
	stored []byte   // the file as it is
	notes  []string // for the next one who asks
	// before stands in front of every change of a NIC. Tests crash there.
	before func(what string)
}

// record is what was changed on one NIC.
type record struct {
	Netns   uint64            `json:"netns"`
	Index   int               `json:"index"`
	Name    string            `json:"name"`               // for people: it may be renamed
	PermMAC string            `json:"perm_mac,omitempty"` // where it has one
	Changed map[string]change `json:"changed,omitempty"`  // by the knob's name
	Filters []string          `json:"filters,omitempty"`  // MACs that we have put into its filter
}

// change is one knob of which the value now is ours, or about to be.
type change struct {
	Original string   `json:"original"`
	Ours     []string `json:"ours"` // one; two while one of ours replaces another
}

// pages is the file.
type pages struct {
	Version int        `json:"version"`
	Boot    string     `json:"boot"`
	Sides   [2]*record `json:"sides"`
}

const (
	bookVersion = 1
	bookSizeMax = 1 << 20
)

// OpenBook opens the book of a bond, or begins one. One that makes no sense is set aside
// under another name, and the next Prepare says so in its notes.
func OpenBook(path string) (*Book, error) {
	b := &Book{path: path}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("tell this boot from others: %w", err)
	}
	b.boot = strings.TrimSpace(string(boot))
	if b.netns, err = namespace(); err != nil {
		return nil, err
	}
	text, err := readBounded(path, bookSizeMax)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how the NICs were: %w (without %s they can be put back only by hand: mend what keeps it from being read, or move it away)", err, path)
	}
	p, err := decodeBook(text)
	if err != nil {
		aside := path + ".damaged"
		if rerr := os.Rename(path, aside); rerr != nil {
			return nil, fmt.Errorf("%s is damaged (%w) and cannot be set aside: %w: move it away", path, err, rerr)
		}
		b.notes = append(b.notes, fmt.Sprintf("%s was damaged (%v) and is set aside as %s: how the NICs were before is not known any more, and what the bond has changed on them will stay when it is removed. By hand: ip link set NIC mtu 1500 allmulticast off promisc off; sysctl -w net.ipv6.conf.NIC.disable_ipv6=0 net.ipv4.conf.NIC.arp_ignore=0; bridge fdb show dev NIC self, and bridge fdb del", path, err, aside))
		return b, nil
	}
	b.stored = text
	if p.Boot == b.boot {
		b.sides = p.Sides
	}
	return b, nil
}

// decodeBook reads a file that anything may have been done to. What it accepts can be
// acted on: every knob is one that we have, every value one that it takes.
func decodeBook(text []byte) (pages, error) {
	var p pages
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return pages{}, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return pages{}, errors.New("there is something after its end")
	}
	if p.Version != bookVersion {
		return pages{}, fmt.Errorf("it has format %d, this ftd knows %d", p.Version, bookVersion)
	}
	for s, r := range p.Sides {
		if r == nil {
			continue
		}
		if err := r.check(); err != nil {
			return pages{}, fmt.Errorf("side %d: %w", s, err)
		}
	}
	return p, nil
}

func (r *record) check() error {
	if r.Index <= 0 {
		return fmt.Errorf("no interface has index %d", r.Index)
	}
	if r.PermMAC != "" {
		if _, err := net.ParseMAC(r.PermMAC); err != nil {
			return err
		}
	}
	for name, c := range r.Changed {
		k, ok := knobNamed(name)
		if !ok {
			return fmt.Errorf("there is no setting %q", name)
		}
		for _, v := range append([]string{c.Original}, c.Ours...) {
			if !k.valid(v) {
				return fmt.Errorf("%s cannot be %q", name, v)
			}
		}
	}
	for _, f := range r.Filters {
		mac, err := net.ParseMAC(f)
		if err == nil {
			err = checkMAC(mac)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// is says whether a record is of this very interface.
func (r *record) is(l Link, netns uint64) bool {
	if r == nil || r.Netns != netns || r.Index != l.Index {
		return false
	}
	return r.PermMAC == "" || len(l.PermMAC) == 0 || r.PermMAC == l.PermMAC.String()
}

// plan notes that a knob that stands at now shall stand at want. It says whether the
// knob has to be turned.
func (r *record) plan(knob, now, want string) bool {
	c, known := r.Changed[knob]
	ours := known && slices.Contains(c.Ours, now)
	switch {
	case now == want && ours:
		c.Ours = []string{want}
	case now == want: // somebody else has set it so
		delete(r.Changed, knob)
		return false
	case ours:
		c.Ours = []string{now, want}
	default:
		c = change{Original: now, Ours: []string{want}}
	}
	if r.Changed == nil {
		r.Changed = map[string]change{}
	}
	r.Changed[knob] = c
	return now != want
}

// save makes the book durable. It does nothing when nothing has changed.
func (b *Book) save() error {
	text, err := json.MarshalIndent(pages{bookVersion, b.boot, b.sides}, "", "\t")
	if err != nil {
		return fmt.Errorf("write down how the NICs were: %w", err)
	}
	text = append(text, '\n')
	if bytes.Equal(text, b.stored) {
		return nil
	}
	if err := replace(b.path, text, 0o600); err != nil {
		return fmt.Errorf("write down how the NICs were: %w", err)
	}
	b.stored = text
	return nil
}

// step stands in front of each change of a NIC.
func (b *Book) step(what string) {
	if b.before != nil {
		b.before(what)
	}
}

// namespace is a number that no other network namespace of this boot has.
func namespace() (uint64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("tell this network namespace from others: %w", err)
	}
	defer unix.Close(fd)
	if cookie, err := unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE); err == nil {
		return cookie, nil
	}
	// A kernel before 5.14 gives no cookies. Inodes are used again, when a namespace has gone.
	var st unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &st); err != nil {
		return 0, fmt.Errorf("tell this network namespace from others: %w", err)
	}
	return st.Ino, nil
}

func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		text = text[:most] // which makes no sense then, and is treated so
	}
	return text, err
}

// replace puts a file in the place of another in one step that survives a crash.
func replace(path string, text []byte, mode fs.FileMode) error {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		os.Remove(temp)
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
