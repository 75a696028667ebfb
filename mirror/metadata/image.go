package metadata

// Image is the metadata of a leg as read from it.
type Image struct {
	Super  Superblock
	Intent *Bitmap  // extents that may differ; where a block did not verify, all of it is set
	Missed *Bitmap  // regions that the absent leg lacks; likewise
	Damage []string // what did not verify, in words
	// Torn: the superblock copies are not the same, because an update was interrupted
	// or one of them is bad. Super is the newest. Write both anew, with a higher
	// Sequence, before anything is done that relies on it: else the newer copy may rot
	// and the state before it come back.
	Torn bool
	// Staged is what a staged superblock says; Super is then that of a leg that has never
	// been in service.
	Staged *Superblock
}
