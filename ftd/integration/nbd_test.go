package integration_test

import (
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// nbdBox is a box in duplex whose disk is served on a socket as well.
func nbdBox(t *testing.T) (b *box, files [2]string, socket string) {
	t.Helper()
	var devs [2]string
	for i := range devs {
		devs[i], files[i] = legLoop(t, legBytes)
	}
	b = newBox(t, devs[0], devs[1])
	socket = filepath.Join(b.dir, "disk0.nbd")
	b.configure(fmt.Sprintf("nbd = %q\n", socket))
	b.start()
	b.wait("disk0", "duplex")
	return b, files, socket
}

// A virtual machine's disk over NBD goes on while the mirror's process is killed, if its
// client connects again as QEMU's does: the socket is there all the time.
func TestNBDClientsGoOnWhenTheDriverIsKilled(t *testing.T) {
	t.Parallel()
	b, files, socket := nbdBox(t)
	const kills = 2
	var out bytes.Buffer
	vm := exec.Command("qemu-img", "bench", "-w", "-c", "40000000", "-d", "16", "-s", "16k", "-t", "none", "--image-opts",
		"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path="+socket+",file.export=disk0,file.reconnect-delay=60")
	vm.Stdout, vm.Stderr = &out, &out
	if err := vm.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- vm.Wait() }()
	t.Cleanup(func() { _ = vm.Process.Kill() })
	for range kills {
		await(t, 30*time.Second, "the driver to have served the client healthily", func() bool {
			p := b.processOf("disk0")
			return p.State == "running" && time.Since(p.Since) > healthyLife && b.nbdCommands() > 1000
		})
		pid := b.driverPid()
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await(t, 30*time.Second, "a successor of the driver", func() bool {
			p := b.processOf("disk0")
			return p.Pid != 0 && p.Pid != pid && p.State == "running"
		})
		b.wait("disk0", "duplex")
		select {
		case err := <-ended:
			t.Fatalf("the client has ended: %v\n%s", err, out.String())
		default:
		}
	}
	await(t, 30*time.Second, "the client to go on", func() bool { return b.nbdCommands() > 1000 })
	_ = vm.Process.Kill()
	<-ended
	if bytes.Contains(out.Bytes(), []byte("error")) {
		t.Errorf("the client saw errors:\n%s", out.String())
	}
	b.equalLegs(files[0], files[1])
}

// nbdCommands is how many commands the driver's process has taken over NBD.
func (b *box) nbdCommands() int {
	x, _ := b.stats("disk0")["nbd"].(map[string]any)
	clients, _ := x["clients"].(map[string]any)
	n, _ := clients["commands"].(float64)
	return int(n)
}
