package translate

import (
	"errors"
	"runtime"

	"golang.org/x/sys/cpu"
)

func supported() error {
	switch {
	case runtime.GOOS != "linux":
		return errors.New("translated code runs on Linux only")
	case !cpu.X86.HasBMI2:
		return errors.New("the host's processor has no BMI2")
	case !cpu.X86.HasFMA:
		return errors.New("the host's processor has no FMA")
	}
	return nil
}
