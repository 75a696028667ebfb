package guest

import (
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"ft/drivers/initramfs"
)

// The initramfs is two archives, one after the other, which the kernel unpacks in turn:
// what comes from Debian, and the service. Neither is compressed: copying a byte costs the
// guest's hart less than unpacking it.

//go:embed embedded
var embeddedFiles embed.FS

// ErrNoService says that this ftd was built without the guest's user space.
var ErrNoService = errors.New("this ftd was built without the guest's user space; build it with `make build`")

// embedded is the service, a program for linux/riscv64.
func embedded() ([]byte, error) {
	b, err := embeddedFiles.ReadFile("embedded/service")
	if err != nil {
		return nil, ErrNoService
	}
	return b, nil
}

// applets are the names by which busybox is called that a person at the console may type.
var applets = strings.Fields(`sh ash cat chmod cp cut date dd df dmesg du echo env expr false find
	free fuser grep head hexdump hostname id ifconfig insmod ip kill killall less ln ls lsmod
	md5sum mkdir mount mv nc netstat pidof ping printf ps pwd rm rmdir rmmod route sed seq
	sha256sum sleep sort stat stty sync sysctl tail tar tee test time timeout top touch tr true
	tty umount uname uniq uptime usleep vi watch wc wget which xargs yes`)

// writeBase writes the part that comes from Debian: root is where packages are unpacked.
func writeBase(path, root, version string) error {
	modules, err := initramfs.Modules(filepath.Join(root, "usr/lib/modules", version), drivers)
	if err != nil {
		return err
	}
	return writeArchive(path, func(a *initramfs.Archive) error {
		// Without it the kernel starts init without standard files.
		a.Char("/dev/console", 5, 1)
		a.MergeUsr()
		for _, d := range []string{"/data", "/etc", "/proc", "/root", "/sys", "/tmp"} {
			a.Dir(d)
		}
		a.Bytes("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\n"))
		a.Bytes("/etc/group", 0o644, []byte("root:x:0:\n"))
		var load strings.Builder
		for _, m := range modules {
			at := "/usr/lib/modules/" + m.Name + ".ko"
			a.Bytes(at, 0o644, m.Data)
			fmt.Fprintln(&load, at)
		}
		a.Bytes("/usr/lib/modules/load", 0o644, []byte(load.String()))
		tree := initramfs.Tree{Root: root, Libraries: []string{"/usr/lib/riscv64-linux-gnu", "/usr/lib"}}
		for _, program := range []string{"/usr/bin/busybox", "/usr/sbin/mke2fs", "/usr/sbin/e2fsck"} {
			if err := a.Program(tree, program); err != nil {
				return err
			}
		}
		a.File("/etc/mke2fs.conf", filepath.Join(root, "etc/mke2fs.conf"))
		for _, name := range applets {
			a.Link("/usr/bin/"+name, "busybox")
		}
		for _, name := range []string{"poweroff", "halt", "reboot"} {
			a.Link("/usr/sbin/"+name, "../../init")
		}
		return nil
	})
}

// writeInitrd writes the whole: the base, and the service as /init.
func writeInitrd(path, base string, service []byte) error {
	from, err := os.Open(base)
	if err != nil {
		return err
	}
	defer from.Close()
	temp := path + ".new"
	to, err := os.Create(temp)
	if err != nil {
		return err
	}
	defer to.Close()
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	a := initramfs.NewArchive(to)
	a.Bytes("/init", 0o755, service)
	if err := errors.Join(a.Close(), to.Close()); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

func writeArchive(path string, fill func(*initramfs.Archive) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	a := initramfs.NewArchive(f)
	err = fill(a)
	return errors.Join(err, a.Close(), f.Close())
}
