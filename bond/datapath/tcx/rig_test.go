package tcx

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/bond/bondtest"
	"ft/bond/datapath"
	"ft/drivers"
)

// The tests have a mount namespace of their own, with a BPF file system of its own: what a
// killed test has pinned ends with it.
const mountsEnv = "FT_TCX_MOUNTS"

func TestMain(m *testing.M) {
	switch os.Getenv(mountsEnv) {
	case "":
		os.Exit(enterMounts())
	case "new":
		if err := unix.Mount("bpf", bpffs, "bpf", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "mount a BPF file system for the tests:", err)
			os.Exit(1)
		}
		os.Setenv(mountsEnv, "ready")
	}
	if os.Getenv(driverEnv) != "" {
		os.Exit(driveFace())
	}
	bondtest.Main(m)
}

func enterMounts() int {
	runtime.LockOSThread() // Pdeathsig is the thread's
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), mountsEnv+"=new")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code
		}
		fmt.Fprintln(os.Stderr, "the tests in a mount namespace of their own:", err)
		return 1
	}
	return 0
}

var faceMAC = net.HardwareAddr{0x02, 0x00, 0x5e, 0x00, 0x53, 0xf0}

func testSpec() datapath.Spec {
	return datapath.Spec{Key: "test-net0", Face: "net0", MAC: faceMAC, MTU: 1500}
}

// rig is a path on the NICs of a bondtest.Net, with addresses on its face.
type rig struct {
	*bondtest.Net
	t testing.TB
	*path
}

// newRig has port 0 active, and both eligible.
func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{Net: bondtest.New(t), t: t}
	var adopted bool
	r.path, adopted = open(t, testSpec())
	if adopted {
		t.Fatal("a face was adopted from nobody")
	}
	r.setPort(0)
	r.setPort(1)
	r.setState(0, both, false)
	if err := r.SetCarrier(true); err != nil {
		t.Fatal(err)
	}
	r.GiveAddresses("net0")
	return r
}

// open opens a path that is removed with the test.
func open(t testing.TB, spec datapath.Spec) (*path, bool) {
	t.Helper()
	p, adopted, err := Open(spec)
	if err != nil {
		t.Fatal(err)
	}
	tp := p.(*path)
	t.Cleanup(func() {
		if err := tp.Remove(); err != nil && !errors.Is(err, errClosed) {
			t.Errorf("remove the path: %v", err)
		}
	})
	return tp, adopted
}

// reopen lets go of the path and opens it again.
func (r *rig) reopen() {
	r.t.Helper()
	if err := r.Close(); err != nil {
		r.t.Fatal(err)
	}
	var adopted bool
	if r.path, adopted = open(r.t, r.spec); !adopted {
		r.t.Fatal("the path was not adopted")
	}
}

var both = [2]bool{true, true}

func (r *rig) port(s drivers.Side) *datapath.Port {
	return &datapath.Port{Index: r.Index(r.NIC(s)), Name: r.NIC(s), MAC: bondtest.NICMAC(s)}
}

func (r *rig) setPort(s drivers.Side) {
	r.t.Helper()
	if err := r.SetPort(s, r.port(s)); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) setState(active drivers.Side, eligible [2]bool, planned bool) {
	r.t.Helper()
	if err := r.SetState(datapath.State{Active: active, Eligible: eligible}, planned); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) active() drivers.Side { r.t.Helper(); st, _ := r.now(); return st.Active }

func (r *rig) now() (datapath.State, datapath.Turn) {
	r.t.Helper()
	st, turn, err := r.State()
	if err != nil {
		r.t.Fatal(err)
	}
	return st, turn
}

func (r *rig) fault(s drivers.Side, f datapath.Fault) {
	r.t.Helper()
	if err := r.Fault(s, f); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) count(name string) uint64 {
	r.t.Helper()
	n, ok := r.Counters()[name]
	if !ok {
		r.t.Fatalf("no counter %s in %v", name, r.Counters())
	}
	return n
}

// wire is a packet socket on one interface.
type wire struct {
	t  testing.TB
	fd int
}

func (r *rig) wire(at bondtest.Place, name string) *wire {
	r.t.Helper()
	w := &wire{t: r.t, fd: -1}
	r.In(at, func() { w.fd = openWire(r.t, name) })
	if w.fd < 0 {
		r.t.FailNow()
	}
	r.t.Cleanup(func() { unix.Close(w.fd) })
	return w
}

func openWire(t testing.TB, name string) int {
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Error(err)
		return -1
	}
	all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8 // in network order
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1) // with VLAN tags
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index})
	}
	if err == nil {
		err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 20_000})
	}
	if err != nil {
		t.Errorf("a packet socket on %s: %v", name, err)
		return -1
	}
	return fd
}

func (w *wire) send(frames ...[]byte) {
	w.t.Helper()
	for _, f := range frames {
		if _, err := unix.Write(w.fd, f); err != nil {
			w.t.Fatalf("send a frame: %v", err)
		}
	}
}

// ways are the face and the peer, which send each other frames.
type ways struct {
	r          *rig
	face, peer *wire
	sent       int
}

func (r *rig) ways() *ways {
	return &ways{r: r, face: r.wire(bondtest.Box, "net0"), peer: r.wire(bondtest.Peer, bondtest.PeerNIC)}
}

// out sends n frames from the face and says how many came. What a program drops, the
// sender is told.
func (w *ways) out(n int) int {
	w.r.t.Helper()
	w.sent++
	marker := fmt.Sprintf("out %d.", w.sent)
	for range n {
		if _, err := unix.Write(w.face.fd, frame(bondtest.PeerMAC(), faceMAC, marker)); err != nil && !errors.Is(err, unix.ENOBUFS) {
			w.r.t.Fatalf("send a frame: %v", err)
		}
	}
	return len(w.peer.receive(marker, n))
}

// in sends n frames to the face.
func (w *ways) in(n int) int {
	w.r.t.Helper()
	w.sent++
	marker := fmt.Sprintf("in %d.", w.sent)
	for range n {
		w.peer.send(frame(faceMAC, bondtest.PeerMAC(), marker))
	}
	return len(w.face.receive(marker, n))
}

// got is a frame that came, with its VLAN tag (0 for none).
type got struct {
	frame []byte
	tci   uint16
}

// receive gives all frames that hold a marker, until enough have come, or nothing has for
// the time of `quiet`.
func (w *wire) receive(marker string, enough int) (all []got) {
	w.t.Helper()
	b, oob := make([]byte, 1<<16), make([]byte, 256)
	quiet := time.Now().Add(100 * time.Millisecond)
	for len(all) < enough && time.Now().Before(quiet) {
		n, oobn, _, _, err := unix.Recvmsg(w.fd, b, oob, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			w.t.Fatalf("receive a frame: %v", err)
		}
		if !contains(b[:n], marker) {
			continue
		}
		quiet = time.Now().Add(100 * time.Millisecond)
		all = append(all, got{append([]byte(nil), b[:n]...), tagFrom(w.t, oob[:oobn])})
	}
	return all
}

func contains(frame []byte, marker string) bool {
	for i := 0; i+len(marker) <= len(frame); i++ {
		if string(frame[i:i+len(marker)]) == marker {
			return true
		}
	}
	return false
}

// tagFrom reads struct tpacket_auxdata (linux/if_packet.h).
func tagFrom(t testing.TB, oob []byte) uint16 {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 18 && m.Data[0]&unix.TP_STATUS_VLAN_VALID != 0 {
			return uint16(m.Data[16]) | uint16(m.Data[17])<<8
		}
	}
	return 0
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// frame is an Ethernet frame of a protocol for experiments (IEEE 802, 9.2.3) that carries
// a marker, padded to the least size.
func frame(to, from net.HardwareAddr, marker string) []byte {
	f := append(append(append([]byte{}, to...), from...), 0x88, 0xb5)
	f = append(f, marker...)
	return append(f, make([]byte, max(0, 60-len(f)))...)
}

// tagged puts a VLAN tag into a frame.
func tagged(f []byte, vlan uint16) []byte {
	return append(append(append([]byte{}, f[:12]...), 0x81, 0x00, byte(vlan>>8), byte(vlan)), f[12:]...)
}
