package integration_test

import (
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// postgres is a PostgreSQL server with its data on the face.
type postgres struct {
	t      *testing.T
	bin    string
	data   string
	socket string
	as     *syscall.SysProcAttr
	server *exec.Cmd
	log    lockedBuffer
}

// newPostgres makes a database in dir, with checksums of its own, and starts it.
func newPostgres(t *testing.T, dir string) *postgres {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(bins) == 0 {
		t.Fatal("PostgreSQL with pgbench is needed: apt-get install postgresql (make test does that)")
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	p := &postgres{t: t, bin: filepath.Dir(bins[len(bins)-1]), data: filepath.Join(dir, "data"), socket: filepath.Join(dir, "socket"),
		as: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, Setpgid: true}}
	for _, d := range []string{p.data, p.socket} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	p.run("initdb", "--data-checksums", "--auth=trust", "-D", p.data)
	p.server = p.command(context.Background(), "postgres", "-D", p.data, "-k", p.socket, "-c", "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "max_wal_size=32MB", "-c", "min_wal_size=32MB")
	p.server.Stdout, p.server.Stderr = &p.log, &p.log
	if err := p.server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	await(t, 30*time.Second, "PostgreSQL to answer", func() bool {
		_, err := p.command(context.Background(), "pg_isready", "-h", p.socket).Output()
		return err == nil
	})
	return p
}

func (p *postgres) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, name), args...)
	cmd.SysProcAttr = p.as
	cmd.Dir = "/"
	return cmd
}

func (p *postgres) run(name string, args ...string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), busy*time.Minute)
	defer cancel()
	out, err := p.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s %v: %v\n%s\n%s", name, args, err, out, p.log.String())
	}
	return strings.TrimSpace(string(out))
}

func (p *postgres) query(sql string) string {
	p.t.Helper()
	return p.run("psql", "-h", p.socket, "-d", "postgres", "-At", "-c", sql)
}

// stop is a fast shutdown. Called twice it does nothing.
func (p *postgres) stop() {
	if p.server == nil {
		return
	}
	_ = p.server.Process.Signal(unix.SIGINT)
	ended := make(chan error, 1)
	go func(cmd *exec.Cmd) { ended <- cmd.Wait() }(p.server)
	select {
	case <-ended:
	case <-time.After(busy * 30 * time.Second):
		p.t.Error("PostgreSQL does not stop")
		_ = unix.Kill(-p.server.Process.Pid, unix.SIGKILL)
	}
	p.server = nil
}

// bench is a run of pgbench in the background.
type bench struct {
	p     *postgres
	cmd   *exec.Cmd
	out   lockedBuffer
	ended chan error
}

// bench fills the tables of pgbench and has its clients at work, until finish. args are
// pgbench's, such as a limit of its rate.
func (p *postgres) bench(args ...string) *bench {
	p.t.Helper()
	p.run("pgbench", "-h", p.socket, "-i", "-q", "-s", "1", "postgres")
	b := &bench{p: p, ended: make(chan error, 1)}
	b.cmd = p.command(context.Background(), "pgbench", append(append([]string{"-h", p.socket, "-c", "4", "-j", "2", "-T", "3600"}, args...), "postgres")...)
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.out
	if err := b.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func() { b.ended <- b.cmd.Wait() }()
	p.t.Cleanup(func() { _ = b.cmd.Process.Kill() })
	return b
}

// running fails the test when pgbench has ended, which it does at the first error.
func (b *bench) running() {
	b.p.t.Helper()
	select {
	case err := <-b.ended:
		b.ended <- err
		b.p.t.Fatalf("pgbench has ended: %v\n%s\n%s", err, b.out.String(), b.p.log.String())
	default:
	}
}

// finish ends it, and fails the test if any transaction has failed, the books do not balance,
// or the server has complained.
func (b *bench) finish() {
	t, p := b.p.t, b.p
	t.Helper()
	if err := b.cmd.Process.Signal(unix.SIGALRM); err != nil { // as its time ends
		t.Fatal(err)
	}
	select {
	case err := <-b.ended:
		if err != nil || !strings.Contains(b.out.String(), "number of failed transactions: 0") {
			t.Fatalf("pgbench: %v\n%s\n%s", err, b.out.String(), p.log.String())
		}
	case <-time.After(busy * 60 * time.Second):
		_ = unix.Kill(-b.cmd.Process.Pid, unix.SIGKILL)
		t.Fatalf("pgbench does not end\n%s\n%s", b.out.String(), p.log.String())
	}
	if n := p.query("select (select sum(abalance) from pgbench_accounts) - (select sum(delta) from pgbench_history)"); n != "0" {
		t.Errorf("the accounts do not match their history: they differ by %s", n)
	}
	if said := p.log.String(); strings.Contains(said, "PANIC") || strings.Contains(said, "ERROR") || strings.Contains(said, "could not") {
		t.Errorf("PostgreSQL said:\n%s", said)
	}
}

// PostgreSQL runs to the end without one error while a leg fails, hangs and vanishes,
// sides are brought down and up, and the driver is killed; its books balance after it.
func TestPostgreSQLRunsThroughFaults(t *testing.T) {
	t.Parallel()
	dev0, file0 := legLoop(t, legBytes)
	dev1, file1 := legLoop(t, legBytes)
	b := newBox(t, dev0, dev1)
	b.configure("leg_timeout = \"2s\"\n")
	b.start()
	b.wait("disk0", "duplex")
	b.mkfs()
	dir := b.mountOpen()
	p := newPostgres(t, dir)
	bench := p.bench()
	for _, turn := range [][2][]string{
		{{"inject", "pci1/disk0", "write-error"}, {"inject", "pci1/disk0", "clear"}},
		{{"inject", "pci0/disk0", "hang"}, {"inject", "pci0/disk0", "clear"}},
		{{"inject", "pci1/disk0", "vanish"}, {"inject", "pci1/disk0", "return"}},
		{{"bringdown", "pci0/disk0"}, {"bringup", "pci0/disk0"}},
	} {
		b.do(turn[0]...)
		b.wait("disk0", "simplex")
		b.progress(20)
		b.do(turn[1]...)
		b.wait("disk0", "duplex")
	}
	pid := b.driverPid()
	b.do("inject", "disk0", "crash")
	await(t, 30*time.Second, "a successor of the driver", func() bool {
		d := b.processOf("disk0")
		return d.Pid != 0 && d.Pid != pid && d.State == "running"
	})
	b.progress(20)
	bench.finish()
	p.stop()
	p.run("pg_checksums", "--check", "-D", p.data)
	b.wait("disk0", "duplex")
	frozen(t, dir, func() { b.equalLegs(file0, file1) })
}
