package integration_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"ft/mirror/legio"
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
		b.killDriver()
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

// exportServer is an NBD server of a file of the size of a leg, as on another machine.
type exportServer struct {
	t    *testing.T
	uri  string
	file string
	argv []string
	cmd  *exec.Cmd
}

func newExportServer(t *testing.T, uri string, argv ...string) *exportServer {
	t.Helper()
	s := &exportServer{t: t, uri: uri, file: filepath.Join(t.TempDir(), "leg"), argv: argv}
	if err := os.WriteFile(s.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(s.file, legBytes); err != nil {
		t.Fatal(err)
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *exportServer) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.argv[0], append(s.argv[1:], s.file)...)
	s.cmd.Stdout, s.cmd.Stderr = os.Stderr, os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	await(s.t, 20*time.Second, "the NBD server to answer", func() bool {
		_, err := legio.AskRemote(s.uri, time.Second)
		return err == nil
	})
}

func (s *exportServer) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Signal(syscall.SIGCONT)
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

// freePort is a TCP port on loopback that nobody has.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// A mirror with one leg here and one under an NBD server goes on when that server dies,
// hangs, or is cut off, and takes it back in when it answers again; when the mirror's own
// process dies, too.
func TestNBDLegUnderLoad(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	socket := filepath.Join(t.TempDir(), "nbd.sock")
	for name, c := range map[string]struct {
		uri  string
		argv []string
	}{
		"qemu-nbd on a unix socket": {"nbd+unix:///?socket=" + socket, []string{"qemu-nbd", "-t", "-e", "4", "-f", "raw", "-k", socket, "--cache=none", "--aio=native"}},
		"qemu-nbd over TCP":         {"nbd://127.0.0.1:" + port + "/leg", []string{"qemu-nbd", "-t", "-f", "raw", "-b", "127.0.0.1", "-p", port, "-x", "leg", "--cache=none", "--aio=native"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newExportServer(t, c.uri, c.argv...)
			dev0, file0 := legLoop(t, legBytes)
			b := newBox(t, dev0, c.uri)
			b.configure("leg_timeout = \"2s\"\n")
			b.start()
			b.wait("disk0", "duplex")
			b.mkfs()
			dir := b.mount()
			l := b.fio(dir)
			b.progress(20)

			s.kill()
			if strings.HasPrefix(c.uri, "nbd+unix:") {
				os.Remove(socket)
			}
			b.wait("disk0", "simplex")
			b.progress(20)
			l.running()
			s.start()
			b.wait("disk0", "duplex")
			b.progress(20)

			_ = s.cmd.Process.Signal(syscall.SIGSTOP) // it hangs, and the face goes on
			b.wait("disk0", "simplex")
			b.progress(20)
			_ = s.cmd.Process.Signal(syscall.SIGCONT)
			b.wait("disk0", "duplex")

			b.killDriver()
			b.progress(20)
			l.running()
			backAgain(b, l, dir, file0, s.file)
		})
	}
}

// With the NBD leg alone in service nothing can be served before its fence has been passed:
// the face waits for that when the mirror's process dies, and gives no error.
func TestNBDLegAloneWhenTheDriverIsKilled(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	uri := "nbd://127.0.0.1:" + port + "/leg"
	s := newExportServer(t, uri, "qemu-nbd", "-t", "-f", "raw", "-b", "127.0.0.1", "-p", port, "-x", "leg", "--cache=none")
	dev0, file0 := legLoop(t, legBytes)
	b := newBox(t, dev0, uri)
	b.configure("leg_timeout = \"2s\"\n")
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mount()
	l := b.fio(dir)
	// A server that had to wait for a core for longer than leg_timeout has cost the leg its place.
	await(t, 60*time.Second, "the NBD leg to carry alone", func() bool {
		_, code := b.ftctl("bringdown", "pci0/disk0")
		return code == done
	})
	b.wait("disk0", "simplex")
	b.progress(20)
	b.killDriver()
	b.progress(20)
	l.running()
	b.do("bringup", "pci0/disk0")
	backAgain(b, l, dir, file0, s.file)
}
