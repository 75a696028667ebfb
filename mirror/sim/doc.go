// Package sim runs the mirror's real engine over simulated legs, a simulated witness
// and simulated clients, in virtual time and in an order that a seed decides, breaks
// everything that can break, and checks what the mirror promises.
//
// # Parts
//
//	world.go    the scheduler: virtual time, the queue of events, the run of a seed
//	env.go      the engine's Env: every way out of the engine is checked here
//	watch.go    what the engine reports and does unasked, held against the rules
//	box.go      the machine around the engine: how the driver starts it
//	crash.go    how it ends: power cut, kill, clean stop
//	admin.go    the daemon and the admin
//	leg.go      a leg: operations that end in any order, errors, hangs, vanishing
//	disk.go     what is behind it: a medium and a volatile cache
//	client.go   requests of the face and their answers, resent after a crash
//	profile.go  what a seed is like
//	chaos.go    what goes wrong
//	scrub.go    scrubs, and what an admin says of them
//	sums.go     the tables of checksums, held against the data
//	spoil.go    silent faults of a leg
//	history.go  the history of the face, for porcupine
//	bound.go    what a resync may copy
//	model.go    the oracle: what each sector may hold
//	settle.go   the end of a run: everything healed, everything compared
//	content.go  what a sector that was written looks like
//	prepare.go  a mirror made beforehand, for seeds to start from
//
// # What is checked
//
//   - Reads are linearizable, acknowledged writes are there after a crash of the
//     driver, and what was flushed is there after a power cut (model.go).
//
//   - A leg that is served alone holds only what it may (box.go).
//
//   - A leg that is cut off or detached gets no I/O until it is attached again (env.go),
//     and a leg that is not ill is not cut off (watch.go).
//
//   - A request is given back only when no leg refers to its memory, once, after its
//     answer has gone out; memory is garbage from then on (env.go, content.go).
//
//   - Every request is answered; while a healthy leg is in service within a bounded
//     time, whatever the other leg does; and without an error unless every leg gave
//     cause (client.go).
//
//   - A resync writes only to regions that the metadata names, or that clients wrote
//     to meanwhile (bound.go, watch.go).
//
//   - At the end, with everything healed, both legs come back into service, their
//     data is equal byte for byte, no mark and no missed region is left, and each leg
//     may serve alone after a clean stop (settle.go).
//
//   - What clients see of a sector is a linearizable register, as porcupine judges it too
//     (linear_test.go).
//
//   - With checksums, nothing wrong that one leg does silently is ever answered, and all of
//     it is healed (spoil.go); the tables on the media are those of the data wherever no
//     mark is (sums.go). A scrub ends, and finds nothing where nothing was spoiled.
//
// # Seeds
//
// A run is a function of its seed and Config alone. A seed that fails is run again
// with a trace, which must end the same way.
package sim
