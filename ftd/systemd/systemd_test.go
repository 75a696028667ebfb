// Package systemd_test tries the units, the package and ftd in them under the real systemd:
// a box that is booted in namespaces of its own, with ft installed in it from a .deb.
package systemd_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"ft/drivers/journal"
	"ft/ftd/testbox/guest/bare"
)

const faceAddress = "192.0.2.10"

// exposureMax are the scores of `systemd-analyze security` that ARCHITECTURE.md states.
var exposureMax = map[string]float64{"ftd": 1.9, "ft-keeper": 5.3}

// versions that the packages and binaries are stamped with.
const (
	older = "1.0.0~test1"
	newer = "1.0.0~test2"
)

// TestUnderSystemd is the life of one box, part after part.
func TestUnderSystemd(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("a box takes root")
	}
	debs := t.TempDir()
	olderDeb, newerDeb := makeDeb(t, debs, older), makeDeb(t, debs, newer)
	b := boot(t)
	for _, deb := range []string{olderDeb, newerDeb} {
		b.put(deb, "/root/"+filepath.Base(deb))
	}
	part := func(name string, f func(*testing.T)) {
		if t.Failed() {
			return // the parts build on one another
		}
		t.Run(name, func(sub *testing.T) {
			b.t = sub
			defer func() { b.t = t }()
			f(sub)
		})
	}
	part("install", func(*testing.T) { b.install(filepath.Base(olderDeb)) })
	part("configure and reload", func(*testing.T) { b.configure() })
	part("who may do what", func(*testing.T) { b.rights() })
	part("hardening", func(*testing.T) { b.hardening() })
	var l *loads
	part("loads", func(*testing.T) { l = b.startLoads(t) }) // t: for longer than this part
	part("ftd restarts and dies", func(*testing.T) { b.ftdGoes(l) })
	part("keeper restarts and dies", func(*testing.T) { b.keeperGoes(l) })
	part("watchdogs", func(*testing.T) { b.watchdogs(l) })
	part("upgrade", func(*testing.T) { b.upgrade(l, filepath.Base(newerDeb)) })
	part("ftd stopped", func(*testing.T) { b.ftdStopped(l) })
	part("loads end", func(t *testing.T) { l.b.t = t; l.finish() })
	part("journal", func(*testing.T) { b.journal() })
	part("clean stop", func(*testing.T) { b.cleanStop() })
	part("purge", func(*testing.T) { b.purge() })
}

// makeDeb builds a package of this tree as `make deb` does, but with dpkg-deb, which is
// there already.
func makeDeb(t *testing.T, dir, version string) string {
	t.Helper()
	cmd := exec.Command("../packaging/deb", "--dpkg-deb", dir)
	cmd.Env = append(os.Environ(), "VERSION="+version, "ARCHES="+goArch(t), "LDFLAGS=-X ft/ftd/api.stamped="+version)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("make the package: %v\n%s", err, out)
	}
	return filepath.Join(dir, fmt.Sprintf("ft_%s_%s.deb", version, goArch(t)))
}

func goArch(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// install: the package starts ftd, which has nothing to do yet.
func (b *box) install(deb string) {
	// Containers are told to leave man pages out.
	b.do("dpkg", "-i", "--path-include=/usr/share/*", "/root/"+deb)
	b.active("ftd", "")
	for _, unit := range []string{"ftd.service", "ft-keeper.service", "ftd.socket"} {
		if got, _ := b.try("systemctl", "is-enabled", unit); strings.TrimSpace(got) != "enabled" {
			b.t.Errorf("%s is %s after the installation", unit, got)
		}
	}
	b.fails(0, []string{"no device is configured", "ft.toml"}, "ftctl", "status")
	b.eventually("systemctl status says it too", func() (bool, string) {
		s := b.property("ftd", "StatusText")
		return strings.Contains(s, "nothing is configured"), s
	})
	b.do("getent", "group", "ft", "ftadm")
	b.do("ftd", "--check-config")
	for _, page := range []string{"man8/ftctl.8", "man8/ftd.8", "man5/ft.toml.5"} {
		b.do("sh", "-c", "zcat /usr/share/man/"+page+".gz | grep -q '^.SH NAME'")
	}
	b.do("bash", "-c", ". /usr/share/bash-completion/completions/ftctl && complete -p ftctl")
}

// makeNetwork makes two NICs, a switch and a peer beyond it.
const makeNetwork = `
ip netns add switch
ip netns add peer
for n in 0 1; do
	ip link add eth$n type veth peer name port$n netns switch
	ip link set eth$n up
done
ip -n switch link add bridge type bridge
ip link add veth0 netns peer type veth peer name port2 netns switch
for n in 0 1 2; do ip -n switch link set port$n master bridge up; done
ip -n switch link set bridge up
ip -n peer addr add 192.0.2.1/24 dev veth0
ip -n peer link set veth0 up
`

const configuration = `
[system]
drills = true

[alarms]
hook = "/usr/libexec/ft-hook"

[[disk]]
name = "disk0"
pci0 = "LEGS/disk0-pci0"
pci1 = "LEGS/disk0-pci1"
nbd = "/run/ft/disk0.nbd"

[[nic]]
name = "net0"
pci0 = "eth0"
pci1 = "eth1"
addresses = ["192.0.2.10/24"]

[[machine]]
name = "guest"
kernel = "/var/lib/ft/bare.elf"
memory = "64MiB"
`

// configure: a reload takes in what is new; a mistake changes nothing, and is told.
func (b *box) configure() {
	b.sh(makeNetwork)
	configuration := strings.ReplaceAll(configuration, "LEGS", b.legs)
	b.sh(fmt.Sprintf("truncate -s 96M %s/disk0-pci0 %[1]s/disk0-pci1", b.legs))
	b.write("/var/lib/ft/bare.elf", string(bare.Program()))
	b.write("/usr/libexec/ft-hook", "#!/bin/sh\ncat >>/var/lib/ft/alarms\n")
	b.do("chmod", "755", "/usr/libexec/ft-hook")
	system, _, _ := strings.Cut(configuration, "[[disk]]")
	b.write("/etc/ft/ft.toml", system)
	b.do("systemctl", "restart", "ftd")
	pid := b.pidOf("ftd")

	b.write("/etc/ft/ft.toml", configuration)
	b.do("systemctl", "reload", "ftd")
	b.eventually("the new devices are there", func() (bool, string) {
		out, _ := b.try("ftctl", "ls")
		return strings.Contains(out, "disk0") && strings.Contains(out, "guest"), out
	})
	b.duplex()

	b.write("/etc/ft/ft.toml", configuration+"\n[[dsik]]\n")
	b.fails(1, nil, "systemctl", "reload", "ftd")
	b.eventually("the refusal is told", func() (bool, string) {
		s := b.property("ftd", "StatusText")
		return strings.Contains(s, "reload refused") && strings.Contains(s, "dsik"), s
	})
	if now := b.pidOf("ftd"); now != pid {
		b.t.Errorf("ftd was process %s and is %s after reloads", pid, now)
	}
	// Nor does one start on it: once is enough, whoever asks is told why, and the faces stay up.
	before := b.drivers()
	b.fails(1, nil, "systemctl", "restart", "ftd")
	b.eventually("ftctl says why ftd does not run", func() (bool, string) { // the socket goes a moment after
		out, code := b.try("ftctl", "status")
		return code == 4 && strings.Contains(out, "dsik") && strings.Contains(out, "systemctl start ftd"), fmt.Sprint(code, " ", out)
	})
	if state := b.property("ftd", "ActiveState") + " " + b.property("ftd", "StatusText"); !strings.HasPrefix(state, "failed") || !strings.Contains(state, "dsik") {
		b.t.Errorf("ftd is %s", state)
	}
	b.sameDrivers(before)
	b.write("/etc/ft/ft.toml", configuration)
	b.do("systemctl", "restart", "ftd")
	b.do("systemctl", "reload", "ftd")
	b.eventually("the refusal is forgotten", func() (bool, string) {
		s := b.property("ftd", "StatusText")
		return strings.Contains(s, "duplex") && !strings.Contains(s, "refused"), s
	})
	b.sameDrivers(before)
}

// rights: an outsider gets a sentence, group ft reads, group ftadm changes.
func (b *box) rights() {
	as := func(group string, args ...string) []string {
		who := []string{"setpriv", "--reuid=65534", "--regid=65534"}
		if group == "" {
			return append(append(who, "--clear-groups"), args...)
		}
		gid := strings.Split(b.do("getent", "group", group), ":")[2]
		return append(append(who, "--groups="+gid), args...)
	}
	const refused = 3
	b.fails(refused, []string{"may not look at this box", "adduser nobody ft"}, as("", "ftctl", "status")...)
	b.fails(refused, []string{"may not change this box"}, as("", "ftctl", "bringdown", "pci1/disk0")...)
	b.fails(0, []string{"DUPLEX"}, as("ft", "ftctl", "status")...)
	b.fails(refused, []string{"may not change this box", "ftadm"}, as("ft", "ftctl", "bringdown", "pci1/disk0")...)
	b.fails(0, nil, as("ftadm", "ftctl", "bringdown", "pci1/disk0")...)
	b.fails(0, nil, as("ftadm", "ftctl", "bringup", "pci1/disk0")...)
	b.duplex()
	// Beside the socket there is nothing for others.
	out, _ := b.try(as("ftadm", "sh", "-c", `
		for f in /run/ft/keeper.sock /run/ft/keeper.notify /run/ft/ftd.lock /run/ft/keeper.json /run/ft/drivers /run/ft/log /var/lib/ft /dev/ft/disk0; do
			{ [ -r $f ] || [ -w $f ]; } && echo "open: $f"
		done
		for p in $(pgrep ftd); do
			for f in environ mem maps; do head -c 1 /proc/$p/$f >/dev/null 2>&1 && echo "open: $f of process $p"; done
		done; true`)...)
	if strings.Contains(out, "open:") {
		b.t.Errorf("a member of ftadm reads or writes what is root's alone:\n%s", out)
	}
}

var exposure = regexp.MustCompile(`Overall exposure level for .*: ([0-9.]+)`)

func (b *box) hardening() {
	for unit, want := range exposureMax {
		m := exposure.FindStringSubmatch(b.do("systemd-analyze", "security", "--no-pager", unit))
		if m == nil {
			b.t.Fatalf("systemd-analyze says nothing of %s", unit)
		}
		got, _ := strconv.ParseFloat(m[1], 64)
		b.t.Logf("systemd-analyze security %s: %.1f", unit, got)
		if got > want {
			b.t.Errorf("the exposure of %s is %.1f, more than %.1f", unit, got, want)
		}
	}
	// What the unit leaves to a driver suffices for the disk's socket too.
	b.do("nbdinfo", "--size", "nbd+unix:///disk0?socket=/run/ft/disk0.nbd")
	const units = "/lib/systemd/system/"
	b.do("systemd-analyze", "verify", units+"ftd.service", units+"ft-keeper.service", units+"ftd.socket")
	status := b.sh("cat /proc/" + b.pidOf("ftd") + "/status")
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		wantWords(b.t, "ftd's status", status, want)
	}
	modules := strings.Fields(b.do("pgrep", "-f", "ftd cpu-module"))
	if len(modules) != 2 {
		b.t.Errorf("there are %d CPU modules", len(modules))
	}
	for _, pid := range modules {
		wantWords(b.t, "a CPU module's status", b.do("cat", "/proc/"+pid+"/status"), "CapPrm:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2")
	}
}

func (b *box) kill(sig, unit string) (pid string) {
	b.t.Helper()
	pid = b.pidOf(unit)
	b.do("kill", "-"+sig, pid)
	return pid
}

// drivers are the processes that carry the faces, with CPU modules.
func (b *box) drivers() string {
	b.t.Helper()
	return b.do("sh", "-c", "pgrep -f 'ftd (driver|cpu-module)' | sort -n | tr '\\n' ' '")
}

func (b *box) sameDrivers(before string) {
	b.t.Helper()
	if now := b.drivers(); now != before {
		b.t.Errorf("drivers and CPU modules were processes %s, and are %s", before, now)
	}
}

func (b *box) ftdGoes(l *loads) {
	before := b.drivers()
	pid := b.pidOf("ftd")
	b.do("systemctl", "restart", "ftd")
	pid = b.active("ftd", pid)
	b.duplex()
	b.kill("KILL", "ftd")
	// A request that comes meanwhile waits for the next ftd.
	b.fails(0, []string{"disk0"}, "ftctl", "status")
	b.active("ftd", pid)
	b.duplex()
	// A journal that hangs, as one on a disk that does, holds nobody up.
	b.do("pkill", "-STOP", "-x", "systemd-journal")
	b.do("timeout", "60", "ftctl", "bringdown", "pci1/disk0")
	b.do("timeout", "60", "ftctl", "bringup", "pci1/disk0")
	b.duplex()
	b.do("pkill", "-CONT", "-x", "systemd-journal")
	l.going()
	b.sameDrivers(before)
}

func (b *box) keeperGoes(l *loads) {
	before := b.drivers()
	pid := b.pidOf("ft-keeper")
	b.do("systemctl", "restart", "ft-keeper")
	pid = b.active("ft-keeper", pid)
	l.going()
	b.kill("KILL", "ft-keeper")
	b.active("ft-keeper", pid)
	l.going()
	b.sameDrivers(before)
	b.duplex()

	// Keeper and driver in the same moment: the descriptors are systemd's to give back.
	pid = b.pidOf("ft-keeper")
	driver := strings.TrimSpace(b.do("pgrep", "-f", "ftd driver mirror disk0"))
	b.do("kill", "-KILL", pid, driver)
	b.active("ft-keeper", pid)
	l.going()
	b.duplex()
}

// watchdogs: whoever stands still is replaced. They are shorter for as long as that is tried:
// on a computer that is busy nobody else should have to be so quick.
func (b *box) watchdogs(l *loads) {
	before := b.drivers()
	b.sh(`for u in ftd ft-keeper; do
		mkdir -p /run/systemd/system/$u.service.d
		printf '[Service]\nWatchdogSec=3s\n' >/run/systemd/system/$u.service.d/watchdog.conf
	done
	systemctl daemon-reload
	systemctl restart ft-keeper ftd
	rm -r /run/systemd/system/ftd.service.d /run/systemd/system/ft-keeper.service.d`)
	b.active("ftd", "")
	for _, unit := range []string{"ftd", "ft-keeper"} {
		pid := b.kill("STOP", unit)
		b.active(unit, pid)
		wantWords(b.t, "the journal", b.do("journalctl", "--no-pager", "-q", "-u", unit), "Watchdog timeout")
		l.going()
	}
	b.sameDrivers(before)
	b.duplex()
}

// upgrade: dpkg brings another ftd; keeper, drivers and CPU modules go on as they are.
func (b *box) upgrade(l *loads, deb string) {
	before, keeper, ftd := b.drivers(), b.pidOf("ft-keeper"), b.pidOf("ftd")
	wantWords(b.t, "ftctl version", b.do("ftctl", "version"), older)
	wantWords(b.t, "ftctl --json version", b.do("ftctl", "--json", "version"), `"supervised":true`) // so that a drill may kill it
	b.do("dpkg", "-i", "/root/"+deb)
	b.active("ftd", ftd)
	b.sameDrivers(before)
	if now := b.pidOf("ft-keeper"); now != keeper {
		b.t.Errorf("the upgrade has restarted the keeper")
	}
	version := b.do("ftctl", "version")
	wantWords(b.t, "ftctl version", version, "ftctl  "+newer, "ftd    "+newer, "keeper "+older, "systemctl restart ft-keeper",
		"drivers of disk0, guest, net0 run an older program")
	if !strings.Contains(b.do("cat", "/etc/ft/ft.toml"), "eth0") {
		b.t.Error("the upgrade has replaced ft.toml")
	}
	b.duplex()
	l.going()
	// And the keeper too, when the admin wants it.
	b.do("systemctl", "restart", "ft-keeper")
	b.active("ft-keeper", keeper)
	b.sameDrivers(before)
	b.duplex()
	l.going()
	wantWords(b.t, "ftctl version", b.do("ftctl", "version"), "keeper "+newer)
}

func (b *box) ftdStopped(l *loads) {
	before := b.drivers()
	b.do("systemctl", "stop", "ftd")
	b.eventually("ftctl says how to start it", func() (bool, string) { // the socket goes a moment after
		out, code := b.try("ftctl", "status")
		return code == 4 && strings.Contains(out, "systemctl start ftd"), fmt.Sprint(code, " ", out)
	})
	if state := b.property("ftd", "ActiveState"); state != "inactive" {
		b.t.Errorf("ftd is %s after systemctl stop and ftctl status", state)
	}
	l.disk.runs()
	l.net.runs()
	b.sameDrivers(before)
	b.do("systemctl", "start", "ftd")
	b.duplex()
	l.going()
}

// journal: changes are found by part, with all their fields.
func (b *box) journal() {
	out := b.do("journalctl", "-o", "json", "-q", "MESSAGE_ID="+journal.ChangeID, "FT_COMPONENT=pci1/disk0", "FT_TO=duplex", "-n", "1")
	var e map[string]any
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		b.t.Fatalf("%v in %s", err, out)
	}
	for field, want := range map[string]string{"_SYSTEMD_UNIT": "ftd.service", "SYSLOG_IDENTIFIER": "ftd", "PRIORITY": "6"} {
		if e[field] != want {
			b.t.Errorf("%s is %q, want %q", field, e[field], want)
		}
	}
	if reason, _ := e["FT_REASON"].(string); !strings.HasSuffix(reason, "with its partner pci0/disk0") { // or as ftd found it
		b.t.Errorf("FT_REASON is %q", reason)
	}
	for _, field := range []string{"FT_FROM", "FT_SEQ", "MESSAGE"} {
		if s, _ := e[field].(string); s == "" {
			b.t.Errorf("there is no %s", field)
		}
	}
}

// cleanStop: it waits while a face is in use, and leaves nothing behind.
func (b *box) cleanStop() {
	b.do("systemctl", "stop", "--no-block", "ft-keeper")
	b.eventually("the keeper waits, and says for whom", func() (bool, string) {
		s := b.property("ft-keeper", "StatusText")
		return strings.Contains(s, "waiting to stop: disk0"), s
	})
	// Nor is it taken from under somebody who has it open as it is: a process with other
	// rights, that root or another user has started.
	for _, who := range []string{"", "setpriv --reuid=65534 --regid=65534 --clear-groups"} {
		b.do("sh", "-c", who+" sleep 1000 3</dev/ft/disk0 >/dev/null 2>&1 &")
	}
	b.do("umount", "/mnt/disk0")
	for _, name := range []string{"first", "second"} {
		b.eventually("the keeper waits for the "+name+" process", func() (bool, string) {
			s := b.property("ft-keeper", "StatusText")
			return strings.Contains(s, "waiting to stop: disk0") && strings.Contains(s, "sleep") && !strings.Contains(s, "mounted"), s
		})
		b.do("pkill", "-o", "sleep")
	}
	b.eventually("the keeper has stopped", func() (bool, string) {
		s := b.property("ft-keeper", "ActiveState") + " " + b.property("ft-keeper", "StatusText")
		return strings.HasPrefix(s, "inactive"), s
	})
	if out, _ := b.try("pgrep", "-af", "ftd (driver|cpu-module|keeper)"); out != "" {
		b.t.Errorf("processes are left:\n%s", out)
	}
	if out, _ := b.try("ip", "link", "show", "net0"); !strings.Contains(out, "does not exist") {
		b.t.Errorf("the face of the NIC is left:\n%s", out)
	}
	if out := b.do("ls", "/dev/ft"); out != "" {
		b.t.Errorf("faces are left: %s", out)
	}
	// ftd goes on, and says what is the matter.
	b.eventually("ftd says that the box is down", func() (bool, string) {
		out, _ := b.try("ftctl", "status")
		return strings.Contains(out, "DOWN"), out
	})
	b.eventually("the alarm's hook, which has no more rights than ftd, is told", func() (bool, string) {
		out, _ := b.try("grep", "-F", `"id":"disk0"`, "/var/lib/ft/alarms")
		return strings.Contains(out, `"to":"down"`), out
	})
	// A file system in fstab comes after its face, and brings the box up for it.
	b.write("/etc/fstab", "/run/ft/dev/disk0 /mnt/disk0 ext4 nofail,_netdev,x-systemd.requires=ft-face@disk0.service 0 0\n")
	b.do("systemctl", "daemon-reload")
	b.do("systemctl", "start", "mnt-disk0.mount")
	b.do("systemctl", "restart", "ft-keeper")
	b.do("findmnt", "/mnt/disk0")
	b.duplex()
	b.do("systemctl", "stop", "mnt-disk0.mount")
}

// purge takes the package away, with all that it has made but for what is an admin's.
func (b *box) purge() {
	b.do("dpkg", "--purge", "ft")
	if out, _ := b.try("pgrep", "-af", "/usr/sbin/ftd"); out != "" {
		b.t.Errorf("processes are left:\n%s", out)
	}
	for _, p := range []string{"/usr/sbin/ftd", "/run/ft", "/etc/ft", "/etc/systemd/system/multi-user.target.wants/ftd.service"} {
		if _, err := os.Lstat(b.path(p)); err == nil {
			b.t.Errorf("%s is left", p)
		}
	}
	if _, err := os.Stat(b.path("/var/lib/ft/events.jsonl")); err != nil {
		b.t.Errorf("what happened to the box is gone with the package: %v", err)
	}
	if state := strings.TrimSpace(b.do("sh", "-c", "systemctl is-system-running || true")); state != "running" {
		b.t.Errorf("the box is %s at the end:\n%s", state, b.do("systemctl", "--failed", "--no-pager"))
	}
}
