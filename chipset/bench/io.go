package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
)

// inputOutput prints what passes between a guest and its disk and network, beside the same
// program on this computer, on the same face.
func (b *bench) inputOutput() error {
	disk, nic := false, false
	for _, t := range diskWork {
		disk = disk || b.wanted(t.name("writes")) || b.wanted(t.name("reads"))
	}
	for _, s := range streams {
		nic = nic || b.wanted(s.name)
	}
	if !disk && !nic {
		return nil
	}
	from := len(b.cleanups)
	face, err := b.mirrored()
	if err != nil {
		return err
	}
	v, err := b.network()
	if err != nil {
		return err
	}
	here, err := startProgram(hostName, exec.Command("nsenter", "--net="+v.box, b.files.program))
	if err != nil {
		return err
	}
	b.cleanup(here.stop)
	if err := here.awaitLine(ready); err != nil {
		return fmt.Errorf("the program on this computer: %w", err)
	}
	there, _, err := b.ours(attached{disk: face, link: boxNIC, mac: guestMAC, networkSpace: v.box}).boot(filepath.Join(b.dir, "machine-io"))
	if err != nil {
		return err
	}
	b.cleanup(there.stop)
	if _, err := there.ask(fmt.Sprintf("address eth0 %s/%d", guestAddress, prefixLength)); err != nil {
		return err
	}
	fmt.Println(head("disk and network, by the wall", hostName, "the guest"))
	for _, t := range diskWork {
		if b.wanted(t.name("writes")) || b.wanted(t.name("reads")) {
			if err := b.blocks(t, here, there, face); err != nil {
				return err
			}
		}
	}
	for _, s := range streams {
		if b.wanted(s.name) {
			if err := b.stream(s.name, s.command, s.peer, v, here, there); err != nil {
				return err
			}
		}
	}
	fmt.Println()
	return b.cleanTo(from)
}
