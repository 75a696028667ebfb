package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"ft/drivers"
	"ft/mirror"
)

// disk is the driver in the disk's process.
type disk struct {
	drivers.Driver
}

func newDisk(cfg drivers.Config) (disk, error) {
	env := drivers.Env{Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})), Predecessor: -1,
		Store: func(string, ...int) error { return nil }, Unstore: func(string) {}, Text: func(string) {},
		Fatal: func(err error) { panic(err) }}
	d, err := mirror.New(cfg, env)
	if err != nil {
		return disk{}, err
	}
	go func() {
		for range d.Events() {
		}
	}()
	return disk{d}, d.Start(context.Background(), drivers.Fresh)
}

// serve does what the measuring process asks for and says how long it took.
func (d disk) serve(what string, cfg drivers.Config) (answer, error) {
	ctx := context.Background()
	switch what {
	case "detach":
		drain, err := d.Detach(ctx, 1, drivers.Reason{Text: "bench"})
		if err == nil {
			<-drain
		}
		return answer{}, err
	case "full":
		// A leg that forgot what it was gets everything.
		f, err := os.OpenFile(cfg.Sides[1].Resource.Path, os.O_RDWR, 0)
		if err != nil {
			return answer{}, err
		}
		end, err := f.Seek(0, 2)
		if err == nil {
			_, err = f.WriteAt(make([]byte, 8192), end-8192)
		}
		if err == nil {
			err = f.Sync()
		}
		f.Close()
		if err != nil {
			return answer{}, err
		}
	case "attach":
	default:
		return answer{}, fmt.Errorf("no request %q", what)
	}
	before := d.copied()
	begun := time.Now()
	if err := d.Attach(ctx, 1, drivers.Resource{AcceptRisk: drivers.RiskOverwrite}); err != nil {
		return answer{}, err
	}
	deadline := time.Now().Add(5 * time.Minute)
	for d.Status().State != drivers.FaceDuplex {
		if time.Now().After(deadline) {
			return answer{}, fmt.Errorf("not in sync after 5 minutes: %+v", d.Status())
		}
		time.Sleep(time.Millisecond)
	}
	return answer{Seconds: time.Since(begun).Seconds(), Bytes: d.copied() - before}, nil
}

func (d disk) copied() int64 {
	n, _ := d.Status().Stats["resynced_bytes"].(int64)
	return n
}
