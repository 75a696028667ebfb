package metadata

// Image is the metadata of a leg as read from it.
type Image struct {
	Super  Superblock
	Intent *Bitmap  // extents that may differ; where a block did not verify, all of it is set
	Missed *Bitmap  // regions that the absent leg lacks; likewise
	Damage []string // what did not verify, in words
}
