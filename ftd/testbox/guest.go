package testbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"ft/drivers/netns"
	"ft/ftd/testbox/guest"
)

// The machine of the box: its disk is disk1, its NIC hangs on net0.
const (
	guestName = "guest"
	guestDisk = "disk1"
)

// GuestKind is what the box's machine runs.
type GuestKind string

const (
	GuestDebian GuestKind = "debian" // Debian's kernel; the bare-metal program where that cannot be had
	GuestBare   GuestKind = "bare"   // the bare-metal program
	GuestNone   GuestKind = "none"   // there is no machine
)

// GuestKinds are all of them; the first is what a box has by itself.
var GuestKinds = []GuestKind{GuestDebian, GuestBare, GuestNone}

// cacheEnv names a directory where what is fetched stays for other boxes as well, as for
// the tests on other kernels (drivers/kerneltest).
const cacheEnv = "FT_KERNELS"

// errStopped says that the box was ended before it was there.
var errStopped = errors.New("ended before it was there")

// makeGuest makes the files of the machine. The first time it takes as long as Debian's
// packages take to come; a signal ends that.
//
// It starts processes of its own, so it comes while there are no children: those reap all.
func (b *box) makeGuest() error {
	o := guest.Options{Dir: filepath.Join(b.Dir, guestName), Say: func(format string, args ...any) { b.say("guest    "+format, args...) }}
	if dir := os.Getenv(cacheEnv); dir != "" {
		o.Cache = filepath.Join(dir, "guest-riscv64")
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan os.Signal, 1)
	go func() {
		defer close(stopped)
		select {
		case s := <-b.signals:
			stopped <- s
			cancel()
		case <-ctx.Done():
		}
	}()
	err := b.prepareGuest(ctx, o)
	cancel()
	if s, ok := <-stopped; ok {
		b.say("\n%s: nothing was started", s)
		return errStopped
	}
	return err
}

func (b *box) prepareGuest(ctx context.Context, o guest.Options) (err error) {
	switch b.Guest {
	case GuestNone:
		return nil
	case GuestBare:
		b.guest, err = guest.PrepareBare(o, "--guest bare asks for it")
	default:
		b.guest, err = guest.Prepare(ctx, o)
	}
	b.guest.Engine = b.Engine
	switch g := b.guest; {
	case err != nil:
	case g.Why != "":
		b.say("guest    not Debian's kernel but the program that is built in, which says hello and echoes:\n         %s", g.Why)
	default:
		b.say("guest    Linux %s", g.Version)
	}
	return err
}

// machineConfig is the table of the machine, "" when there is none.
func machineConfig(g guest.Guest, network bool) string {
	if g.Kernel == "" {
		return ""
	}
	var t strings.Builder
	fmt.Fprintf(&t, "\n[[machine]]\nname = %q\nkernel = %q\n", guestName, g.Kernel)
	if g.Engine != "" {
		fmt.Fprintf(&t, "engine = %q\n", g.Engine)
	}
	fmt.Fprintf(&t, "memory = \"%dMiB\"\n", guest.MemoryMiB)
	if g.Initrd != "" {
		cmdline := g.Cmdline
		if network {
			fmt.Fprintf(&t, "nic = %q\n", nicName)
		} else {
			cmdline = guest.Cmdline(netip.Prefix{}, netip.Addr{})
		}
		fmt.Fprintf(&t, "initrd = %q\ncmdline = %q\ndisk = %q\n", g.Initrd, cmdline, guestDisk)
	}
	return t.String()
}

// served says whether the box has a machine whose service can be asked.
func (b *box) served() bool { return b.guest.Version != "" && b.net.Peer != "" }

const (
	guestPoll    = 500 * time.Millisecond
	guestTimeout = 3 * time.Second
)

// awaitGuest tells once when the guest's service answers. It asks as the peer does: over
// the network, through the face and the active NIC.
func (b *box) awaitGuest(ctx context.Context) {
	began := time.Now()
	for ctx.Err() == nil {
		if err := askGuest(b.net.Peer); err == nil {
			b.say("guest    its service answers at http://%s/, %.0f s after the box's start", guest.Address.Addr(), time.Since(began).Seconds())
			return
		}
		select {
		case <-time.After(guestPoll):
		case <-ctx.Done():
		}
	}
}

// askGuest asks the service for its status, in the network namespace of the peer.
func askGuest(peer string) error {
	return netns.Do(peer, func() error {
		// Dialled by this goroutine itself, whose thread is in the namespace: an HTTP
		// client has others dial.
		conn, err := net.DialTimeout("tcp", net.JoinHostPort(guest.Address.Addr().String(), "80"), guestTimeout)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(guestTimeout)); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "GET /status HTTP/1.0\r\n\r\n"); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil {
			return err
		}
		if words := strings.Fields(line); len(words) < 2 || words[1] != strconv.Itoa(200) {
			return fmt.Errorf("the guest answers %q", line)
		}
		return nil
	})
}

// guestHint is the part about the machine.
func (b *box) guestHint(ftctl string) string {
	if b.guest.Kernel == "" {
		return ""
	}
	console := fmt.Sprintf(`
  %[1]s console %[2]s    # the machine's; Ctrl-] ends it
  %[1]s inject cpu1/%[2]s kill    # a CPU module dies; the guest goes on, and another comes in
  %[1]s inject cpu0/%[2]s flip-register    # a bit of a register turns over: show %[2]s says which, and when
`, ftctl, guestName)
	if !b.served() {
		return console
	}
	return console + fmt.Sprintf(`  sudo ip netns exec %[1]s curl http://%[2]s/    # its service: counts requests on %[3]s, and says what else it does
  sudo ip netns exec %[1]s curl -T README.md http://%[2]s/files/README.md    # a file, answered when it is on the disk
  sudo ip netns exec %[1]s curl http://%[2]s/sum    # SHA-256 over all files
`, b.net.Peer, guest.Address.Addr(), guestDisk)
}
