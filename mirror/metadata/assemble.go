package metadata

// Codes of refusals, the same words as in package drivers.
const (
	CodeStale      = "stale"
	CodeSplitBrain = "split-brain"
	CodeNoLeg      = "no-leg"
	CodeUnfit      = "unfit"
)

// Verdict says which leg may be served first.
type Verdict struct {
	Serve    int      // side, or -1
	Create   bool     // neither leg carries metadata: the mirror is to be made
	Code     string   // why none may serve, "" when one may
	Sentence string   // why this one, or why none and the way out
	Notes    []string // what else a person should know
}

// Assemble decides which leg of the disk called name may be served first.
func Assemble(name string, images [2]*Image, w *Witness, out [2]bool) Verdict {
	return Verdict{Serve: -1, Code: CodeNoLeg}
}
