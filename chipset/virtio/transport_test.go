package virtio

import "testing"

// devices are one of each, all features offered.
func devices(t tb, g *guest) map[string]Device {
	b, err := NewBlock(slot, g, g, BlockConfig{Sectors: 2048, Serial: "serial", Discard: true, WriteZeroes: true})
	if err != nil {
		t.Fatalf("%v", err)
	}
	n, err := NewNet(slot, g, g, NetConfig{MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 1500, Offloads: true})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return map[string]Device{"block": b, "net": n, "console": NewConsole(slot, g, g), "entropy": NewEntropy(slot, g, g)}
}

// eachDevice runs a test on one of each.
func eachDevice(t *testing.T, f func(t *testing.T, g *guest)) {
	for _, kind := range []string{"block", "net", "console", "entropy"} {
		t.Run(kind, func(t *testing.T) {
			g := newGuest(t)
			g.dev = devices(t, g)[kind]
			f(t, g)
		})
	}
}

func TestRegistersSayWhatItIs(t *testing.T) {
	ids := map[string]uint32{"net": 1, "block": 2, "console": 3, "entropy": 4}
	eachDevice(t, func(t *testing.T, g *guest) {
		for _, c := range []struct {
			name string
			reg  uint64
			want uint32
		}{
			{"MagicValue", regMagic, 0x74726976}, {"Version", regVersion, 2},
			{"DeviceID", regDeviceID, ids[g.dev.Info().Kind]}, {"VendorID", regVendorID, 0x7466},
			{"QueueNumMax", regQueueNumMax, 256}, {"Status", regStatus, 0}, {"InterruptStatus", regInterruptStatus, 0},
			{"SHMLenLow", regSHMLenLow, ^uint32(0)}, {"SHMBaseHigh", regSHMBaseHigh, ^uint32(0)}, {"nothing", 0x0f0, 0},
		} {
			if got := g.read(c.reg); got != c.want {
				t.Errorf("%s is %#x, want %#x", c.name, got, c.want)
			}
		}
		if got := g.offered(); got&featuresCommon != featuresCommon {
			t.Errorf("offers %#x, want %#x at least", got, uint64(featuresCommon))
		}
		g.write(regDeviceFeaturesSel, 2)
		if got := g.read(regDeviceFeatures); got != 0 {
			t.Errorf("features 64 to 95 are %#x, want none", got)
		}
		g.write(regQueueSel, queuesMax)
		if got := g.read(regQueueNumMax); got != 0 {
			t.Errorf("a queue that is not there has %d entries", got)
		}
	})
}

func TestRegistersAreWords(t *testing.T) {
	eachDevice(t, func(t *testing.T, g *guest) {
		for _, c := range []struct {
			off  uint64
			size int
		}{{regMagic, 1}, {regMagic, 2}, {regMagic, 8}, {regStatus, 8}, {SlotSize, 4}, {1 << 40, 4}} {
			if _, ok := g.dev.Load(c.off, c.size); ok {
				t.Errorf("a load of %d bytes at %#x is answered", c.size, c.off)
			}
			if g.dev.Store(c.off, c.size, 0) {
				t.Errorf("a store of %d bytes at %#x is taken", c.size, c.off)
			}
		}
		for _, size := range []int{1, 2, 4, 8} {
			if _, ok := g.dev.Load(regConfig, size); !ok {
				t.Errorf("the configuration space cannot be read by %d bytes", size)
			}
		}
		if v, ok := g.dev.Load(SlotSize-8, 8); !ok || v != 0 {
			t.Errorf("behind the configuration space: %#x, %v", v, ok)
		}
		if !g.dev.Store(regConfig, 4, 0xffffffff) {
			t.Error("a store to the configuration space faults")
		}
	})
}

func TestFeaturesAreRefused(t *testing.T) {
	eachDevice(t, func(t *testing.T, g *guest) {
		for name, features := range map[string]uint64{
			"none":               0,
			"without VERSION_1":  featureIndirect,
			"one not offered":    featureVersion1 | 1<<63,
			"a transport's own":  featureVersion1 | 1<<33,
			"VERSION_1 and more": featureVersion1 | 1<<24,
		} {
			g.negotiate(features)
			if g.read(regStatus)&statusFeaturesOK != 0 {
				t.Errorf("%s (%#x) was accepted", name, features)
			}
			g.write(regStatus, statusAcknowledge|statusDriver|statusDriverOK)
			if g.read(regStatus)&statusDriverOK != 0 {
				t.Errorf("%s (%#x): DRIVER_OK without FEATURES_OK", name, features)
			}
		}
	})
}

func TestFeaturesStayOnceAgreed(t *testing.T) {
	eachDevice(t, func(t *testing.T, g *guest) {
		g.negotiate(featureVersion1)
		g.write(regDriverFeaturesSel, 0)
		g.write(regDriverFeatures, featureIndirect)
		if got := g.dev.Info().Features; got != featureVersion1 {
			t.Errorf("features became %#x", got)
		}
		g.write(regStatus, 0)
		if got := g.dev.Info(); got.Features != 0 || got.Phase != PhaseReset {
			t.Errorf("after a reset: %v, features %#x", got.Phase, got.Features)
		}
	})
}

func TestPhases(t *testing.T) {
	eachDevice(t, func(t *testing.T, g *guest) {
		for _, c := range []struct {
			do   func()
			want Phase
		}{
			{func() {}, PhaseReset},
			{func() { g.write(regStatus, statusAcknowledge) }, PhaseNegotiating},
			{func() { g.negotiate(featureVersion1) }, PhaseFeaturesOK},
			{func() { g.write(regStatus, statusDriverOK) }, PhaseLive},
			{func() { g.write(regStatus, statusFailed) }, PhaseFailed},
			{func() { g.write(regStatus, 0) }, PhaseReset},
			{func() { g.write(regQueueNum, 3); g.write(regQueueReady, 1) }, PhaseNeedsReset},
		} {
			if c.do(); g.dev.Info().Phase != c.want {
				t.Fatalf("it is %v, want %v", g.dev.Info().Phase, c.want)
			}
		}
	})
}

func TestAQueueIsDescribedBeforeItIsReady(t *testing.T) {
	const addr = ramBase + 0x10000
	eachDevice(t, func(t *testing.T, g *guest) {
		for _, c := range []struct {
			name                string
			num                 uint32
			desc, driver, devic uint64
			ok                  bool
		}{
			{"proper", 8, addr, addr + 0x1000, addr + 0x2000, true},
			{"one entry", 1, addr, addr + 0x1000, addr + 0x2000, true},
			{"not in RAM, which is seen later", 8, 0, 0, 0, true},
			{"no entries", 0, addr, addr, addr, false},
			{"no power of two", 24, addr, addr, addr, false},
			{"too many entries", 512, addr, addr, addr, false},
			{"table askew", 8, addr + 8, addr, addr, false},
			{"available ring askew", 8, addr, addr + 1, addr, false},
			{"used ring askew", 8, addr, addr, addr + 2, false},
			{"around the end of the addresses", 8, addr, addr, ^uint64(0) - 3, false},
		} {
			g.negotiate(featureVersion1)
			g.write(regQueueSel, 0)
			g.write(regQueueNum, c.num)
			for reg, a := range map[uint64]uint64{regQueueDescLow: c.desc, regQueueDriverLow: c.driver, regQueueDeviceLow: c.devic} {
				g.write(reg, uint32(a))
				g.write(reg+4, uint32(a>>32))
			}
			g.write(regQueueReady, 1)
			if ready := g.read(regQueueReady) == 1; ready != c.ok {
				t.Errorf("%s: ready %v, want %v", c.name, ready, c.ok)
			}
			if broken := g.read(regStatus)&statusNeedsReset != 0; broken == c.ok {
				t.Errorf("%s: needs reset %v", c.name, broken)
			}
		}
	})
}

func TestAQueueThatIsReadyCannotBeMoved(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	g.write(regQueueSel, 0)
	g.write(regQueueNum, 2)
	for _, reg := range []uint64{regQueueDescLow, regQueueDriverLow, regQueueDeviceLow} {
		g.write(reg, ramBase+0x10_0000)
	}
	r := g.request(blockFlush, 0, false)
	if out := g.sent(); len(out) != 1 || out[0].Op != Flush {
		t.Fatalf("left: %v; %v", out, g.dev.Info().Violation)
	}
	g.dev.Complete(&Completion{ID: 1 * inFlightMax})
	if g.blockStatus(r) != OK {
		t.Fatal("not answered")
	}
}

func TestInterruptsAreAcknowledgedOneByOne(t *testing.T) {
	g, n := newNet(t, netFeatures)
	g.queues[netTransmit].send(buffer{g.put(packet(60)), NetHeader + 60, false})
	n.SetLink(false)
	if got := g.read(regInterruptStatus); got != interruptUsed|interruptConfig || !g.line {
		t.Fatalf("InterruptStatus is %#x", got)
	}
	g.write(regInterruptACK, interruptUsed)
	if got := g.read(regInterruptStatus); got != interruptConfig || !g.line {
		t.Fatalf("with one acknowledged InterruptStatus is %#x", got)
	}
	g.write(regInterruptACK, interruptConfig)
	if g.line {
		t.Fatal("the line stays high")
	}
}

// Nobody runs while a device is held; stores that come all the same do nothing.
func TestStoresDuringAHold(t *testing.T) {
	g := newBlock(t, BlockConfig{}, blockFeatures)
	g.request(blockFlush, 0, false)
	id := g.sent()[0].ID
	g.write(regStatus, 0)
	g.write(regStatus, 0)
	g.write(regStatus, statusFailed)
	g.write(regQueueSel, 1)
	if g.held != 1 || g.dev.Info().Phase != PhaseHeld {
		t.Fatalf("Hold was called %d times, it is %v", g.held, g.dev.Info().Phase)
	}
	g.dev.Complete(&Completion{ID: id})
	if i := g.dev.Info(); i.Phase != PhaseReset || i.Resets != 2 { // with the one of the start
		t.Fatalf("it is %v after %d resets", i.Phase, i.Resets)
	}
}

func TestNothingIsReadBeforeDriverOK(t *testing.T) {
	g := newGuest(t)
	g.dev = devices(t, g)["block"]
	g.negotiate(featureVersion1)
	g.queues[0] = g.newRing(0, 8, featureVersion1)
	r := g.request(blockFlush, 0, false)
	if out := g.sent(); len(out) != 0 {
		t.Fatalf("left before DRIVER_OK: %v", out)
	}
	g.write(regStatus, statusDriverOK)
	if out := g.sent(); len(out) != 1 || out[0].Op != Flush {
		t.Fatalf("what was made available early did not leave at DRIVER_OK: %v", out)
	}
	_ = r
}

func TestNotificationsOfNoQueueAreIgnored(t *testing.T) {
	eachDevice(t, func(t *testing.T, g *guest) {
		for _, q := range []uint32{0, 1, 2, 7, ^uint32(0)} {
			g.write(regQueueNotify, q) // before it is live
		}
		g.negotiate(featureVersion1)
		g.write(regStatus, statusDriverOK)
		for _, q := range []uint32{0, 1, 2, 7, ^uint32(0)} {
			g.write(regQueueNotify, q) // no queue is ready
		}
		if i := g.dev.Info(); i.Phase != PhaseLive {
			t.Fatalf("%v: %v", i.Phase, i.Violation)
		}
	})
}

func TestASlotWithoutADeviceHasTheID0(t *testing.T) {
	for off, want := range map[uint64]uint64{regMagic: magic, regVersion: 2, regDeviceID: 0, regStatus: 0, regConfig: 0} {
		if v, ok := LoadEmpty(off, 4); !ok || v != want {
			t.Errorf("register %#x: %#x, %v, want %#x", off, v, ok, want)
		}
	}
	if _, ok := LoadEmpty(regMagic, 1); ok {
		t.Error("a byte of a register can be read")
	}
}

func TestEveryNameIsSaid(t *testing.T) {
	seen := map[string]bool{}
	for v := range violationEnd {
		if s := v.String(); s == "" || seen[s] {
			t.Errorf("violation %d is %q", v, s)
		} else {
			seen[s] = true
		}
	}
	for op := range opEnd {
		if op.String() == "" {
			t.Errorf("operation %d has no name", op)
		}
	}
	for p := range PhaseHeld + 1 {
		if p.String() == "" {
			t.Errorf("phase %d has no name", p)
		}
	}
	if Op(200).String() != "none" {
		t.Errorf("an operation that there is not is %v", Op(200))
	}
}
