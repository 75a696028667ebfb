// Package oracle compares the hart with QEMU, by programs made at random. All of it is
// tests.
//
// User streams (stream_test.go, batch_test.go, user_test.go): random instructions of
// RV64GC, compressed ones and floating point included, on random registers and memory. Each
// instruction's result goes into a log in memory, with fcsr where it can change. The same
// image runs under qemu-riscv64 and on the hart, in M mode and in U mode over page tables,
// and the logs, the memory and all registers at the end of each run have to be the same. A
// difference is narrowed down to the first instructions that make one (narrow_test.go).
//
// Privileged streams (privileged_test.go and the files named after it): random CSR accesses
// in all modes, page tables with all bits of their entries random, loads, stores and
// fetches through them, and random instruction words, legal or not, under
// qemu-system-riscv64. What is logged there are the registers of the trap as well.
//
// Every stream is a function of its seed:
//
//	go test ./chipset/rv64/oracle -oracle.seeds N -oracle.seed0 S
//
// or make oracle SEEDS=N SEED0=S. A failure names the seed.
package oracle
