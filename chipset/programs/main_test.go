package programs

import (
	"testing"

	"ft/chipset/inside/insidetest"
)

func TestMain(m *testing.M) { insidetest.Main(m) }
