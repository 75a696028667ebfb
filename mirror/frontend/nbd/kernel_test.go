package nbd

import (
	"errors"
	"testing"
	"time"

	"ft/drivers/kerneltest"
	"ft/mirror/frontend"
	"ft/mirror/frontend/facetest"
)

// TestKernelNBD runs the tests of this package where there is an nbd driver.
func TestKernelNBD(t *testing.T) {
	if testing.Short() {
		t.Skip("ft/mirror's TestKernelFrontends has this frontend under the whole driver")
	}
	kerneltest.RunTests(t, kerneltest.Options{Modules: []string{"nbd", "ext4", "crc32c_generic"}, Programs: []string{"mkfs.ext4"}}, "ft/mirror/frontend/nbd")
}

const identity = "ft test disk0"

var options = Options{Identity: identity, Timeout: 2 * time.Second, FastZero: func() bool { return true }}

var kind = facetest.Kind{
	Create: func(g frontend.Geometry, serve func(frontend.Queue)) (frontend.Face, error) {
		return Create(g, options, serve)
	},
	Adopt: func(g frontend.Geometry, _ int, serve func(frontend.Queue)) (frontend.Face, error) {
		return Adopt(g, options, serve)
	},
	Stall: options.Timeout,
	Left:  func() bool { return Left(identity) },
	Have: func() error {
		_, err := newWire(cmdConnect, 0)
		return err
	},
}

func TestMain(m *testing.M) { kind.Main(m) }

func TestFaceCarriesAFileSystem(t *testing.T) { kind.FileSystem(t) }
func TestFaceSurvivesItsProcess(t *testing.T) { kind.Survives(t) }

func TestWithoutADeviceThereIsNothingToAdopt(t *testing.T) {
	if _, err := Adopt(frontend.Geometry{}, Options{Identity: "nobody's"}, nil); !errors.Is(err, ErrIncomplete) {
		t.Error(err)
	}
}
