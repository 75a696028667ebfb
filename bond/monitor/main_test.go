package monitor

import (
	"log/slog"
	"testing"
	"time"

	"ft/bond/bondtest"
)

func TestMain(m *testing.M) { bondtest.Main(m) }

// quiet is a log that nobody reads. The writer under it shows what a failed test saw.
func quiet(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

const soon = 5 * time.Second
