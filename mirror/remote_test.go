package mirror

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"ft/drivers"
	"ft/mirror/legio"
)

// remoteBox is a box whose leg 1 is qemu-nbd's. (nbdkit 1.32 now and then ends when a client
// says good-bye.)
func remoteBox(t *testing.T) *box {
	t.Helper()
	if _, err := exec.LookPath("qemu-nbd"); err != nil {
		t.Skip("qemu-nbd is not there (.ci/needs test installs it)")
	}
	b := newBox(t, 64<<20)
	opt, _ := json.Marshal(Options{LegTimeout: time.Second})
	b.cfg.Options = opt
	socket := filepath.Join(b.cfg.RunDir, "leg1.sock")
	server := exec.Command("qemu-nbd", "-t", "-e", "4", "-k", socket, "-f", "raw", b.cfg.Sides[1].Resource.Path)
	server.Stdout, server.Stderr = t.Output(), t.Output()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		err := server.Wait()
		t.Logf("the server has ended: %v", err)
		close(ended)
	}()
	t.Cleanup(func() {
		b.stop()
		server.Process.Kill()
		<-ended
	})
	address := "nbd+unix:///?socket=" + socket
	b.cfg.Sides[1].Resource.Path = address
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		_, err := legio.AskRemote(address, time.Second)
		if err == nil {
			return b
		}
		if time.Now().After(until) {
			t.Fatal(err)
		}
	}
}

// What a predecessor has sent to an NBD server is fenced, unless it said that it has had all
// its answers. Its note holds for one start.
func TestNBDLegIsFencedAfterADeathAndNotAfterAHandOver(t *testing.T) {
	b := remoteBox(t)
	b.start()
	b.attach(1)
	b.duplex()
	if err := b.d.Stop(t.Context(), drivers.HandOver); err != nil {
		t.Fatal(err)
	}
	close(b.done)
	d := b.d.(*driver)
	b.d = nil
	if _, err := os.Stat(d.quietPath()); err != nil {
		t.Errorf("no note after all was answered: %v", err)
	}
	b.start() // the face that was left went with its last descriptor
	if _, err := os.Stat(d.quietPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the note is still there: %v", err)
	}
	b.attach(1)
	b.duplex()
	for _, handedOver := range []bool{true, false} {
		n, err := New(b.cfg, drivers.Env{})
		if err != nil {
			t.Fatal(err)
		}
		next := n.(*driver)
		next.handedOver = handedOver
		next.fenceRemote()
		if next.fences[1].Open() != handedOver || !next.fences[0].Open() {
			t.Errorf("handed over %v: the fences are open: %v, %v", handedOver, next.fences[0].Open(), next.fences[1].Open())
		}
	}
}
