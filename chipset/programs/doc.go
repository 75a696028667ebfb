// Package programs holds a test of the machine with real programs: the same of Debian's
// binaries, and tests of the Go standard library, run under the same kernel on our machine
// and under QEMU, and must say the same and end the same (TestKernelPrograms).
//
//	list_test.go       the commands, a short list and a whole one
//	go_test.go         the commands that are tests of the Go standard library
//	debian_test.go     where the programs come from; the initramfs
//	machines_test.go   the two machines, and what a guest reports on its console
//	programs_test.go   the test: command by command, what differs
//	keys_test.go       private keys, made from seeds
//	init, plan         the guest's side
//
// With -short the list is short enough for every run of `make test`.
package programs
