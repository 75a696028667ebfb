package guest

import (
	"context"
	"fmt"
)

// Kernel gives the kernel of the test box's guest alone, a raw Image, and its version: for
// guests with another user space. cache is Options.Cache of Prepare; the kernel stays in
// it. It blocks for as long as Debian's packages take to come, the first time.
func Kernel(ctx context.Context, cache string, say func(format string, args ...any)) (path, version string, err error) {
	d, err := findDebian(ctx, cache, say)
	if err != nil {
		return "", "", fmt.Errorf("get Debian's kernel: %w", err)
	}
	return d.kernel, d.version, nil
}
