package control

// MTBFPolicy says how a fault is judged.
type MTBFPolicy string

// Policies of judgement.
const (
	MTBFThreshold MTBFPolicy = "threshold" // min_faults are forgiven, then the mean time between faults decides
	MTBFNever     MTBFPolicy = "never"     // one fault and it is broken
	MTBFAlways    MTBFPolicy = "always"    // it always comes back
)
