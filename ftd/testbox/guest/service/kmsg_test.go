package main

import "testing"

// Lines as Linux 6.12 writes them.
func TestComplaints(t *testing.T) {
	for record, want := range map[string]string{
		"6,1,0,-;Linux version 6.12.117+deb13-riscv64 (debian-kernel@lists.debian.org)\n":                "",
		"4,1,0,-;WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 bar+0x12/0x34\n SUBSYSTEM=x\n":                "warn",
		"0,1,0,-;watchdog: BUG: soft lockup - CPU#0 stuck for 23s! [sh:77]\n":                            "hung",
		"3,1,0,-;INFO: task sync:88 blocked for more than 120 seconds.\n":                                "hung",
		"3,1,0,-;rcu: INFO: rcu_sched self-detected stall on CPU\n":                                      "rcu",
		"3,1,0,-;rcu: rcu_sched kthread starved for 5252 jiffies!\n":                                     "rcu",
		"6,1,0,-;rcu: Hierarchical RCU implementation.\n":                                                "",
		"3,1,0,-;BUG: sleeping function called from invalid context at mm/x.c:1\n":                       "bug",
		"2,1,0,-;kernel BUG at fs/ext4/inode.c:2741!\n":                                                  "bug",
		"1,1,0,-;Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008\n": "oops",
		"0,1,0,-;Oops [#1]\n": "oops",
		"3,1,0,-;I/O error, dev vda, sector 2048 op 0x1:(WRITE) flags 0x800 phys_seg 1 prio class 2\n":            "io",
		"3,1,0,-;Buffer I/O error on dev vda, logical block 1, lost async page write\n":                           "io",
		"2,1,0,-;EXT4-fs error (device vda): ext4_lookup:1855: inode #2: comm ls: deleted inode referenced: 12\n": "io",
		"3,1,0,-;Aborting journal on device vda-8.\n":                                                             "io",
		"6,1,0,-;EXT4-fs (vda): mounted filesystem 5b0c r/w with ordered data mode. Quota mode: none.\n":          "",
		"6,1,0,-;EXT4-fs (vda): recovery complete\n":                                                              "",
		"3,1,0,-;something: failed with error -22\n":                                                              "error",
		"5,1,0,-;random: crng init done\n":                                                                        "",
		"12,1,0,-;WARNING: said by a program that writes to /dev/kmsg\n":                                          "",
		"3,1,0,-;Out of memory: Killed process 99 (sh) total-vm:1kB, anon-rss:1kB, file-rss:0kB, shmem-rss:0kB\n": "oops",
		"nonsense": "",
	} {
		if got, text := complaintIn(record); got != want {
			t.Errorf("%q (text %q) is %q, want %q", record, text, got, want)
		}
	}
}

func TestComplaintsAreCounted(t *testing.T) {
	c := &complaints{counts: map[string]int{}}
	for range linesMax + 5 {
		c.take("io", "I/O error, dev vda")
	}
	c.take("rcu", "rcu: a stall")
	c.take("", "all is well")
	if r := c.report(); r.IO != linesMax+5 || r.RCU != 1 || r.Total != linesMax+6 || len(r.Lines) != linesMax {
		t.Errorf("%d io, %d rcu, %d in all, %d lines", r.IO, r.RCU, r.Total, len(r.Lines))
	}
}
