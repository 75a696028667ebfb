// Package sim runs the mirror's real engine over simulated legs, a simulated witness
// and simulated clients, in virtual time and in an order that a seed decides, breaks
// everything that can break, and checks what the mirror promises.
//
// # Parts
//
//	script.go   a run written down: its conditions and steps, and what carries steps out
//	shrink.go   a script that fails made short
//	world.go    the scheduler: virtual time, the queue of events, the run of a seed
//	env.go      the engine's Env: every way out of the engine is checked here
//	watch.go    what the engine reports and does unasked, held against the rules
//	box.go      the machine around the engine: how the driver starts it
//	crash.go    how it ends: power cut, kill, clean stop
//	admin.go    the daemon and the admin
//	daemon.go   in some seeds, ftd's control core in the daemon's place
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
// with a trace, which must end the same way; then it is written down as a script, and that is
// made as short as it can be and still fail in the same way. Scripts of mistakes that were
// found are kept in testdata.
//
// # What others have met
//
// The histories of Linux md (drivers/md) and DRBD (its commits and ChangeLog) tell of
// mirrors whose sides differed and nobody knew. Each that could happen here is a broken
// variant of the engine that the simulator finds (mirror.Defect), or cannot happen for the
// reason that is given.
//
//	source                                        what went wrong                                here
//	md 133d4527eab8 flush writes before recovery  a new target lacks writes that were under way  JoinForgetsInFlight
//	DRBD 415a2c408 flush requests from before     the same, by messages that came too late       JoinForgetsInFlight
//	md 1a855a060665 re-adding of partly recovered half a resync was taken for a whole one        ReadUnsynced; a target says so in its superblock
//	md 2febf5fdbf5d degraded array, slow disk     reads from what is not resynced                ReadUnsynced
//	md 46669e8616c6 missing bitmap update         writes whose regions are not marked            WriteBeforeMarks, ClearIntentEarly
//	md raid1 write-behind, June 2019              overlapping writes in different orders         OverlappingWrites
//	md raid1 raid10, bits cleared when degraded   what the absent side lacks was forgotten       MarksGoUnsaved, StaleOnlyWhenCut
//	mdadm issue 22, disks pulled one by one       the older side overwrites the newer one        SkipWitness, NoGenerationBump
//	DRBD b46379422 multiple failures              a write went on though its mark had failed     IgnoreMarkErrors
//	DRBD 204200aba missing set-out-of-sync        what is written without the peer is not noted  StaleOnlyWhenCut
//	DRBD 1353dab53 resolving split-brain          resynced by a bitmap that was not about it     OverwriteByBitmap
//	DRBD 497149ded clobbered error status         a later piece's success hid an error           LastPieceCounts
//	DRBD 8.3.9 race in the meta-data update       what changed meanwhile counted as written      RecordBehind
//	DRBD cb1ce8a99 P_OUT_OF_SYNC before the bits  copied before it was noted as out of date      ResyncWithoutLock
//	DRBD a11068fe3 writes to SyncTargets          the target missed writes during the resync     ResyncWithoutLock, JoinForgetsInFlight
//	DRBD 1eac40e06, 499533fe3 rotate the UUID     written alone in the same generation           NoGenerationBump
//	DRBD 539ba0ed3 reject stale re-attach         a stale side served when no other was there    SkipWitness
//	DRBD 15f2580ae barrier before held writes     a flush was answered before writes             FlushOneLeg; what is flushed has been answered
//	DRBD 85b28e236 no good data, writes go on     acknowledged by nobody                         no: an answer counts the legs in service that have it (writeEnd)
//	DRBD 0486b6df5, 3cb0ba6d1 bits between peers  two stale copies compared with each other      no: there are two legs, and a target never serves
//	DRBD ea897c10b disconnect against state       an old answer revived a dead connection        no: each attachment has its number (LegDone)
//	DRBD 95153072a wrong part of a request sent   the sides were given different memory          no: one buffer goes to both legs
//	DRBD 5204727f9 unaligned discards             one side kept what the other dropped           no: a discard is a write of zeroes, in blocks
//	DRBD d1fd295f5, 13da1f71e size and bitmap     grown space counted as equal                   the size of a mirror changes under no leg that serves
//	md raid1 read error rewritten                 healed over a newer write                      ResyncWithoutLock: a healing copy is locked as any other
package sim
