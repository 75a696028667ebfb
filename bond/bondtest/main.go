// Package bondtest is the ground that the bond's tests stand on: a network namespace of
// their own for the whole test process (the box), and beside it a switch and a peer.
//
//	box: eth0 ─── port0 ┐
//	                    ├ br0 (switch) ── peer ─── eth0 (peer: 192.0.2.1, 2001:db8::1)
//	box: eth1 ─── port1 ┘
//
// Everything is a veth, a bridge or an anonymous namespace. No namespace has a name and
// none is held by anything but this process, so that a killed test leaves nothing behind.
//
// For tests and the bench only. It needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
package bondtest

import (
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"ft/drivers/kerneltest"
)

// inBox is set in the environment of a test process that is in the box already.
const inBox = "FT_BONDTEST_BOX"

// TB is what a Net needs of the test that it is for: a testing.TB, or what stands for one
// in a program. Fatal and Fatalf do not return.
type TB interface {
	Helper()
	Cleanup(func())
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// Main runs a package's tests, a *testing.M, in a fresh network namespace: call it from
// TestMain. The test binary executes itself again there, so that all of its threads, and
// all processes that the tests start, are inside. It does not return.
func Main(m interface{ Run() (code int) }) {
	if os.Getenv(inBox) != "" {
		if err := upLoopback(); err != nil {
			fmt.Fprintln(os.Stderr, "bondtest:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	code, err := enterBox()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bondtest:", err)
		code = 1
	}
	os.Exit(code)
}

func enterBox() (code int, err error) {
	// The child is killed with the thread that started it (prctl(2), PR_SET_PDEATHSIG).
	runtime.LockOSThread()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), inBox+"=1", fmt.Sprintf("%s=/proc/%d/ns/net", kerneltest.Network, os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}

	// `go test` asks a test that takes too long for its stacks with SIGQUIT; they are the
	// child's that matter.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start the tests in a network namespace of their own: %w (it takes root, or CAP_SYS_ADMIN)", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case sig := <-signals:
			_ = cmd.Process.Signal(sig) // it may just have ended: Wait tells
		case err := <-done:
			if _, exited := err.(*exec.ExitError); err != nil && !exited {
				return 0, fmt.Errorf("wait for the tests in the box: %w", err)
			}
			if code := cmd.ProcessState.ExitCode(); code >= 0 {
				return code, nil
			}
			return 0, fmt.Errorf("the tests in the box: %v", cmd.ProcessState)
		}
	}
}

func upLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}
