package testbox

import (
	"fmt"
	"os"
)

// LegBytes is the size of a leg: the disk itself and the mirror's metadata at the end.
const LegBytes = 1 << 30

// makeLeg makes a sparse file for a leg. One that exists is left as it is: it carries
// the data of an earlier run.
func makeLeg(path string, bytes int64) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make the leg %s: %w", path, err)
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("make the leg %s: %w", path, err)
	case !st.Mode().IsRegular():
		return fmt.Errorf("make the leg %s: something that is not a file has that name", path)
	case st.Size() == 0:
		if err := f.Truncate(bytes); err != nil {
			return fmt.Errorf("make the leg %s: %w", path, err)
		}
	}
	return f.Close()
}
