//go:build !amd64

package translate

import (
	"errors"
	"runtime"
)

func supported() error {
	return errors.New("there is no translator for " + runtime.GOARCH + " (only for amd64); use the interpreter")
}
