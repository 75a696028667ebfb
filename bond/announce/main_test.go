package announce

import (
	"testing"

	"ft/bond/bondtest"
)

func TestMain(m *testing.M) { bondtest.Main(m) }
