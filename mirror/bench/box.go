package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"ft/drivers"
	"ft/drivers/host"
	"ft/drivers/keeper"
	"ft/mirror"
	"ft/mirror/scrub"
)

// box is one disk as in service: its driver process, and the keeper, in this process.
type box struct {
	cfg    drivers.Config
	keeper *keeper.Client
	driver *host.Client
	cancel context.CancelFunc
	ended  chan error
}

const within = 5 * time.Minute // anything that is waited for

func startBox(dir string, legs [2]string, o mirror.Options) (*box, error) {
	b := &box{ended: make(chan error, 1)}
	b.cfg = drivers.Config{Kind: mirror.Kind, Name: disk, RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"), DevDir: filepath.Join(dir, "dev")}
	for i := range b.cfg.Sides {
		b.cfg.Sides[i].Resource.Path = legs[i]
	}
	for _, p := range []string{b.cfg.StateDir, filepath.Join(b.cfg.RunDir, "drivers")} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() {
		b.ended <- keeper.Run(ctx, keeper.Options{RunDir: b.cfg.RunDir, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	}()
	b.keeper = keeper.Dial(keeper.SocketPath(b.cfg.RunDir))
	b.driver = host.Dial(host.SocketPath(b.cfg.RunDir, disk))
	if err := b.start(o); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

// face is the path of the disk.
func (b *box) face() string { return filepath.Join(b.cfg.DevDir, disk) }

// start runs the driver with options and waits for duplex.
func (b *box) start(o mirror.Options) (err error) {
	if b.cfg.Options, err = json.Marshal(o); err != nil {
		return err
	}
	config, err := json.Marshal(b.cfg)
	if err != nil {
		return err
	}
	path := filepath.Join(b.cfg.RunDir, "disk.json")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	spec := keeper.Spec{Argv: []string{exe, "-driver", path}, WatchdogMS: 10000, Control: host.SocketPath(b.cfg.RunDir, disk)}
	for {
		if _, err = b.keeper.Put(ctx, disk, spec); err == nil {
			break
		}
		if ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	if _, err := b.until(ctx, func(drivers.Status) bool { return true }); err != nil {
		return err
	}
	_, _, err = b.attach(drivers.RiskOverwrite)
	return err
}

// again stops the driver cleanly and starts it with other options.
func (b *box) again(o mirror.Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if err := b.driver.Stop(ctx, drivers.Remove); err != nil {
		return err
	}
	if err := b.keeper.Delete(ctx, disk, true); err != nil {
		return err
	}
	return b.start(o)
}

// until polls the disk's status. A driver that is not there is waited for.
func (b *box) until(ctx context.Context, ok func(drivers.Status) bool) (drivers.Status, error) {
	for {
		s, err := b.driver.Status(ctx)
		if err == nil && s.State != drivers.FaceDown && s.Face != "" && ok(s) {
			return s, nil
		}
		if ctx.Err() != nil {
			return s, fmt.Errorf("waiting for the disk: %w (last: %s %s, %v)", ctx.Err(), s.State, s.Reason, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// detach takes leg 1 out.
func (b *box) detach() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	_, err := b.driver.Detach(ctx, 1, drivers.Reason{Text: "bench"}, true)
	return err
}

// forget makes leg 1, which is out, one that gets everything.
func (b *box) forget() error {
	f, err := os.OpenFile(b.cfg.Sides[1].Resource.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.WriteAt(make([]byte, 8192), end-8192)
	}
	return errors.Join(err, f.Sync(), f.Close())
}

// attach takes leg 1 in and says how long it took to duplex and how much was copied.
func (b *box) attach(risk string) (copied int64, took time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	before, err := b.driver.Status(ctx)
	if err != nil {
		return 0, 0, err
	}
	begun := time.Now()
	if err := b.driver.Attach(ctx, 1, drivers.Resource{AcceptRisk: risk}); err != nil {
		return 0, 0, err
	}
	after, err := b.until(ctx, func(s drivers.Status) bool { return s.State == drivers.FaceDuplex })
	return resynced(after) - resynced(before), time.Since(begun), err
}

func resynced(s drivers.Status) int64 {
	n, _ := s.Stats["resynced_bytes"].(float64) // as JSON has it
	return int64(n)
}

// startScrub begins a scrub; scrubbed waits for its end.
func (b *box) startScrub() error {
	return b.driver.Command(context.Background(), "scrub", map[string]string{"action": "start"}, nil)
}

func (b *box) scrubbed() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	for {
		var st scrub.Status
		if err := b.driver.Command(ctx, "scrub", map[string]string{"action": "show"}, &st); err != nil {
			return err
		}
		if st.Phase == scrub.Idle && !st.Build {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

// summed waits until every block has a checksum.
func (b *box) summed() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	if _, err := b.until(ctx, func(s drivers.Status) bool { return s.Stats["checksums"] == true }); err != nil {
		return err
	}
	return b.scrubbed()
}

// kill kills the driver process.
func (b *box) kill() error {
	return b.keeper.Crash(context.Background(), disk)
}

// stop ends the disk and the keeper.
func (b *box) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	err := b.keeper.Stop(ctx, true)
	b.cancel()
	return errors.Join(err, <-b.ended)
}
