package mirror

import (
	"time"
	"unsafe"

	"ft/mirror/metadata"
)

// Defaults of the options.
const (
	DefaultLegTimeout    = 5 * time.Second
	DefaultResyncRateMin = 10_000_000 // bytes a second
	DefaultSumCache      = 4096       // blocks: 16 MiB, for 16 GiB of data
)

func (o Options) withDefaults() Options {
	if o.LegTimeout <= 0 {
		o.LegTimeout = DefaultLegTimeout
	}
	if o.ResyncRateMin <= 0 {
		o.ResyncRateMin = DefaultResyncRateMin
	}
	if o.SumCache <= 0 {
		o.SumCache = DefaultSumCache
	}
	if o.NoLeg == "" {
		o.NoLeg = "error"
	}
	return o
}

// remoteQuiet is how long an NBD server must have answered before it is taken to have
// carried out what was under way on a connection that broke: see legio.Fence.
func (o Options) remoteQuiet() time.Duration { return 2 * o.withDefaults().LegTimeout }

// alignedBytes is memory aligned to 4096 bytes.
func alignedBytes(n int) []byte {
	b := make([]byte, n+metadata.BlockSize)
	off := int(-uintptr(unsafe.Pointer(&b[0])) & (metadata.BlockSize - 1))
	return b[off : off+n : off+n]
}

// Defect is a deliberate mistake, for the test that shows that the simulator finds it.
type Defect uint32

// The defects, each of which loses or corrupts data in some run.
const (
	AckBeforeRecord        Defect = 1 << iota // acknowledge before the other leg is recorded as out of date
	ClearIntentEarly                          // take marks back without a flush
	ResyncWithoutLock                         // copy without locking the range
	NoGenerationBump                          // go on alone in the same generation
	ReadUnsynced                              // read from a target
	FlushOneLeg                               // flush the source only
	ClearMissedBeforeFlush                    // take missed bits back before the target has flushed
	SkipWitness                               // never write the witness
	UnlockBeforeReplied                       // let the range go before the answer has gone out
	NoUnflushedTracking                       // a lost leg lacks only what is written afterwards
	MarksBeforeSums                           // take marks back before the checksums are on the legs
	TrustMarkedSums                           // believe the checksums of marked extents after a crash
	NoSumCatchUp                              // take a leg in without the checksums that it lacks
	NoVerify                                  // return what does not agree with its checksum
	RepairFromFirst                           // repair leg 1 from leg 0 whatever the checksums say
	SumsFollowCopies                          // make the checksum that of what is copied, right or wrong
	PlainLocks                                // lock the bytes of a request, not its blocks
	JoinForgetsInFlight                       // a new target is not told to lack the writes under way
	WriteBeforeMarks                          // issue a write while its marks are being written
	IgnoreMarkErrors                          // issue a write though its marks could not be written
	MarksGoUnsaved                            // take marks back while a leg is absent, the missed bits unsaved
	OverlappingWrites                         // let writes that overlap run side by side
	OverwriteByBitmap                         // overwrite a leg that an admin gave up as if it were only behind
	LastPieceCounts                           // of a request done in pieces only the last one's error counts
	RecordBehind                              // count as recorded what changed while it was being recorded
	StaleOnlyWhenCut                          // a write that one leg lacks is not noted as such
	NoSumOrder                                // write a block of checksums to a leg that joins while it is being written there
)

// NoIntentMap, as Options.Measure, leaves the write-intent map out, so that its cost can
// be measured. A crash then leaves the legs different. No configuration can ask for it.
const NoIntentMap = "no-intent-map"

// PlainReads, as Options.Measure, has reads go to the leg with fewer I/Os under way, else
// to either in turn, so that what mirror/balance brings can be measured.
const PlainReads = "plain-reads"

// IntegrityCRC32C, as Options.Integrity, keeps a checksum of each block.
const IntegrityCRC32C = "crc32c"

// SetZeroPiece makes the pieces of a discard or write-zeroes small. Only for tests.
func (e *Engine) SetZeroPiece(n int64) { e.zeroPiece = n }

// SetDefect makes the engine wrong. Only for tests.
func (e *Engine) SetDefect(d Defect) { e.defect = d }
