package ublk

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"ft/drivers/kerneltest"
	"ft/mirror/frontend"
	"ft/mirror/frontend/facetest"
)

// TestKernelUblk runs the tests of this package where there is a ublk driver.
func TestKernelUblk(t *testing.T) {
	if testing.Short() {
		t.Skip("ft/mirror's TestKernelFrontends has this frontend under the whole driver")
	}
	kerneltest.RunTests(t, kerneltest.Options{Modules: []string{"ublk_drv", "ext4", "crc32c_generic"}, Programs: []string{"mkfs.ext4"}}, "ft/mirror/frontend/ublk")
}

var kind = facetest.Kind{
	Create: func(g frontend.Geometry, serve func(frontend.Queue)) (frontend.Face, error) {
		return Create(g, Options{}, serve)
	},
	Adopt: func(g frontend.Geometry, device int, serve func(frontend.Queue)) (frontend.Face, error) {
		return Adopt(g, []int{device}, Options{Patience: time.Minute}, serve)
	},
	Left: func() bool {
		left, _ := filepath.Glob("/sys/block/ublkb*")
		return len(left) > 0
	},
	Have: func() error {
		c, err := openControl()
		if err == nil {
			c.close()
		}
		return err
	},
}

func TestMain(m *testing.M) { kind.Main(m) }

func TestFaceCarriesAFileSystem(t *testing.T) { kind.FileSystem(t) }
func TestFaceSurvivesItsProcess(t *testing.T) { kind.Survives(t) }

func TestWithoutADeviceThereIsNothingToAdopt(t *testing.T) {
	if _, err := Adopt(frontend.Geometry{}, nil, Options{}, nil); !errors.Is(err, ErrIncomplete) {
		t.Error(err)
	}
}
