// Command service is the whole user space of the test box's guest, as one static program
// for linux/riscv64 that the initramfs has as /init:
//
//	init (process 1) ── mounts, modules, disk, address ──▶ starts and starts again
//	   ├─ service serve   HTTP on port 80: a counter, files, checksums, load (server.go)
//	   └─ sh              busybox on the console, for a person
//
// What the service acknowledges is on the disk: files and the counter are synced before
// they are answered (store.go, counter.go). The guest may be killed at any moment; its
// next start replays the journal and goes on.
//
// It leaves by SIGTERM to process 1 (poweroff, halt), or SIGINT (reboot): everything is
// ended, the disk unmounted, the machine switched off.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if sig, ok := leaving[name]; ok {
		if err := unix.Kill(1, sig); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		return
	}
	switch {
	case os.Getpid() == 1:
		runInit()
	case len(args) == 1 && args[0] == serveRole:
		os.Exit(serve())
	default:
		fmt.Fprintln(os.Stderr, "service: this is the user space of ft's test guest; it runs as process 1 there")
		os.Exit(2)
	}
}

// leaving are the names under which the program ends the guest, with the signals that
// process 1 knows.
var leaving = map[string]unix.Signal{
	"poweroff": unix.SIGTERM,
	"halt":     unix.SIGTERM,
	"reboot":   unix.SIGINT,
}

// say writes a line to the console.
func say(format string, args ...any) {
	fmt.Printf("guest: "+format+"\n", args...)
}
