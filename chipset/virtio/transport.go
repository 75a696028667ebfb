package virtio

// The registers of virtio-mmio (4.2.2, table 4.1).
const (
	regMagic             = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regVendorID          = 0x00c
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueNumMax       = 0x034
	regQueueNum          = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regQueueDescLow      = 0x080
	regQueueDescHigh     = 0x084
	regQueueDriverLow    = 0x090
	regQueueDriverHigh   = 0x094
	regQueueDeviceLow    = 0x0a0
	regQueueDeviceHigh   = 0x0a4
	regSHMLenLow         = 0x0b0
	regSHMBaseHigh       = 0x0bc
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100

	magic    = 0x7472_6976 // "virt"
	version  = 2
	vendorID = 0x0000_7466 // "ft"

	// SlotSize is how much of the address space a device has.
	SlotSize = 0x1000
)

// Device IDs (section 5).
const (
	idNet     = 1
	idBlock   = 2
	idConsole = 3
	idEntropy = 4
)

// Bits of the device status (2.1).
const (
	statusAcknowledge = 1
	statusDriver      = 2
	statusDriverOK    = 4
	statusFeaturesOK  = 8
	statusNeedsReset  = 64
	statusFailed      = 128

	// statusByDriver are those that say only what the driver thinks.
	statusByDriver = statusAcknowledge | statusDriver | statusFailed
)

// Features of every device (section 6).
const (
	featureIndirect = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	featureEventIdx = 1 << 29 // VIRTIO_F_EVENT_IDX
	featureVersion1 = 1 << 32 // VIRTIO_F_VERSION_1

	featuresCommon = featureIndirect | featureEventIdx | featureVersion1
)

// Bits of InterruptStatus.
const (
	interruptUsed   = 1
	interruptConfig = 2
)

// Phase is how far a device is in its life. It follows from the status register.
type Phase uint8

// Phases.
const (
	PhaseReset       Phase = iota
	PhaseNegotiating       // a driver has found it
	PhaseFeaturesOK        // features are agreed
	PhaseLive              // DRIVER_OK
	PhaseFailed            // the driver has given up
	PhaseNeedsReset        // the driver broke a rule
	PhaseHeld              // waits for requests outside
)

func (p Phase) String() string {
	return [...]string{"reset", "negotiating", "features agreed", "live", "failed", "needs reset", "held"}[p]
}

// drain is what a device that is held does when nothing is outside any more.
type drain uint8

const (
	drainNone  drain = iota
	drainQueue       // nothing: a queue was stopped
	drainReset
	drainEnd
)

// queuesMax is the most queues that a device here has.
const queuesMax = 2

// transportState is what is common to all devices' states.
type transportState struct {
	Status            uint8
	Drain             drain
	Violation         Violation
	DeviceFeaturesSel uint32
	DriverFeaturesSel uint32
	DriverFeatures    uint64
	QueueSel          uint32
	InterruptStatus   uint32
	ConfigGeneration  uint32
	Queues            [queuesMax]queueState
	Counters          Counters
}

// front is what a device adds to the transport.
type front interface {
	// acceptable says whether the driver may accept just these of the features offered.
	acceptable(features uint64) bool
	// started: the driver is ready; features are agreed, queues may be used.
	started()
	// notified: the driver has made buffers available in a queue that is ready.
	notified(queue int)
	// cleared: the device has been reset; what it knew of the driver goes.
	cleared()
	// outside is the number of requests that are not answered yet.
	outside() int

	// code goes over the device's state, zero makes it that after New, and described makes
	// the configuration space what the state says.
	code(c *codec)
	zero()
	described()
}

// transport is the registers and the life of a device, below each of them.
type transport struct {
	slot    int
	kind    string
	id      uint32
	offered uint64
	queues  int
	config  []byte // the configuration space
	mem     Memory
	port    Port
	front   front
	s       *transportState

	word  [descriptorSize]byte // what goes to and comes from a ring
	req   Request              // the output under way
	codec codec
}

func (t *transport) negotiated(feature uint64) bool { return t.s.DriverFeatures&feature != 0 }

// live says whether buffers may be used (3.1.1, 2.1.2).
func (t *transport) live() bool { return t.phase() == PhaseLive }

// serving says whether a queue's buffers may be used.
func (t *transport) serving(queue int) bool { return t.live() && t.s.Queues[queue].Ready }

func (t *transport) phase() Phase {
	s := t.s.Status
	switch {
	case t.s.Drain != drainNone:
		return PhaseHeld
	case s&statusNeedsReset != 0:
		return PhaseNeedsReset
	case s&statusFailed != 0:
		return PhaseFailed
	case s&statusDriverOK != 0:
		return PhaseLive
	case s&statusFeaturesOK != 0:
		return PhaseFeaturesOK
	case s != 0:
		return PhaseNegotiating
	}
	return PhaseReset
}

// Held says that a reset, or a queue's stop, waits for requests outside.
func (t *transport) Held() bool { return t.s.Drain != drainNone }

// Info is for people.
func (t *transport) Info() Info {
	return Info{
		Kind: t.kind, Phase: t.phase(), Violation: t.s.Violation, Features: t.s.DriverFeatures,
		InFlight: t.front.outside(), Counters: t.s.Counters,
	}
}

// Load reads a register: words, and bytes of any size in the configuration space.
func (t *transport) Load(off uint64, size int) (uint64, bool) {
	if off >= SlotSize {
		return 0, false
	}
	if off >= regConfig {
		return t.loadConfig(off-regConfig, size), true
	}
	if size != 4 || off%4 != 0 {
		return 0, false
	}
	return uint64(t.load(off)), true
}

func (t *transport) loadConfig(off uint64, size int) (v uint64) {
	for i := range uint64(size) {
		if off+i < uint64(len(t.config)) {
			v |= uint64(t.config[off+i]) << (8 * i)
		}
	}
	return v
}

func (t *transport) load(off uint64) uint32 {
	switch off {
	case regMagic:
		return magic
	case regVersion:
		return version
	case regDeviceID:
		return t.id
	case regVendorID:
		return vendorID
	case regDeviceFeatures:
		if t.s.DeviceFeaturesSel > 1 {
			return 0
		}
		return uint32(t.offered >> (32 * t.s.DeviceFeaturesSel))
	case regQueueNumMax:
		if t.selected() != nil {
			return queueSizeMax
		}
	case regQueueReady:
		if q := t.selected(); q != nil && q.Ready {
			return 1
		}
	case regInterruptStatus:
		return t.s.InterruptStatus
	case regStatus:
		return uint32(t.s.Status)
	case regConfigGeneration:
		return t.s.ConfigGeneration
	}
	if off >= regSHMLenLow && off <= regSHMBaseHigh {
		return ^uint32(0) // there is no such region (4.2.2)
	}
	return 0
}

// selected is the queue that QueueSel names, nil where there is none.
func (t *transport) selected() *queueState {
	if t.s.QueueSel >= uint32(t.queues) {
		return nil
	}
	return &t.s.Queues[t.s.QueueSel]
}

// Store writes a register. The configuration space of the devices here is read-only.
func (t *transport) Store(off uint64, size int, v uint64) bool {
	if off >= SlotSize {
		return false
	}
	if off >= regConfig {
		return true
	}
	if size != 4 || off%4 != 0 {
		return false
	}
	if t.Held() {
		return true // the hart does not run; nobody is there to write
	}
	t.store(off, uint32(v))
	return true
}

func (t *transport) store(off uint64, v uint32) {
	switch off {
	case regDeviceFeaturesSel:
		t.s.DeviceFeaturesSel = v
	case regDriverFeaturesSel:
		t.s.DriverFeaturesSel = v
	case regDriverFeatures:
		t.storeFeatures(v)
	case regQueueSel:
		t.s.QueueSel = v
	case regQueueReady:
		t.storeReady(v)
	case regQueueNotify:
		if v < uint32(t.queues) && t.serving(int(v)) {
			t.front.notified(int(v))
		}
	case regInterruptACK:
		t.s.InterruptStatus &^= v
		t.port.Interrupt(t.slot, t.s.InterruptStatus != 0)
	case regStatus:
		t.storeStatus(v)
	default:
		if q := t.selected(); q != nil && !q.Ready {
			q.store(off, v)
		}
	}
}

func (t *transport) storeFeatures(v uint32) {
	if t.s.Status&statusFeaturesOK != 0 || t.s.DriverFeaturesSel > 1 {
		return // agreed already
	}
	shift := 32 * t.s.DriverFeaturesSel
	t.s.DriverFeatures = t.s.DriverFeatures&^(0xffff_ffff<<shift) | uint64(v)<<shift
}

// storeStatus is the driver's steps through 3.1.1. It can set bits, never clear one but
// by a reset; what it may not set yet stays clear, and reading back tells it.
func (t *transport) storeStatus(v uint32) {
	if v&0xff == 0 {
		t.drainFor(drainReset)
		return
	}
	set := uint8(v)
	t.s.Status |= set & statusByDriver
	if set&statusFeaturesOK != 0 && t.acceptable() {
		t.s.Status |= statusFeaturesOK
	}
	if set&statusDriverOK != 0 && t.s.Status&(statusDriverOK|statusFeaturesOK) == statusFeaturesOK {
		t.s.Status |= statusDriverOK
		if !t.live() {
			return
		}
		t.front.started()
		for i := range t.queues {
			if t.serving(i) {
				t.front.notified(i) // what was made available too early
			}
		}
	}
}

func (t *transport) acceptable() bool {
	f := t.s.DriverFeatures
	return f&^t.offered == 0 && f&featureVersion1 != 0 && t.front.acceptable(f)
}

// storeReady starts and stops a queue.
func (t *transport) storeReady(v uint32) {
	q := t.selected()
	switch {
	case q == nil:
	case v == 1 && !q.Ready && t.s.Status&statusNeedsReset == 0:
		if !q.usable() {
			t.violate(ViolationQueueSetup)
			return
		}
		q.Ready = true
	case v == 0 && q.Ready:
		q.stop()
		t.drainFor(drainQueue)
	}
}

// drainFor resets the device or stops a queue: at once, or when what is outside has been
// answered.
func (t *transport) drainFor(d drain) {
	t.s.Drain = d
	if t.front.outside() > 0 {
		t.port.Hold(t.slot)
		return
	}
	t.drained()
}

// drained ends a hold.
func (t *transport) drained() {
	d := t.s.Drain
	t.s.Drain = drainNone
	if d == drainReset {
		t.clear()
	}
}

// clear is what a reset leaves: the counters.
func (t *transport) clear() {
	counters, generation := t.s.Counters, t.s.ConfigGeneration
	*t.s = transportState{Counters: counters, ConfigGeneration: generation}
	t.s.Counters.Resets++
	t.front.cleared()
	t.port.Interrupt(t.slot, false)
}

// violate is the end of a driver that broke a rule (2.1.2): nothing more is read from or
// written to its rings until it resets the device.
func (t *transport) violate(v Violation) {
	if t.s.Status&statusNeedsReset != 0 {
		return
	}
	t.s.Counters.Violations++
	t.s.Violation = v
	t.s.Status |= statusNeedsReset
	if t.s.Status&statusDriverOK != 0 {
		t.configChanged()
	}
}

// configChanged tells the driver to look at the status and the configuration space.
func (t *transport) configChanged() {
	t.s.ConfigGeneration++
	t.raise(interruptConfig)
}

func (t *transport) raise(bits uint32) {
	t.s.InterruptStatus |= bits
	t.port.Interrupt(t.slot, true)
}

// Emit: of a device that nobody answers, nothing is outside.
func (t *transport) Emit() {}

// emit sends t.req out.
func (t *transport) emit() {
	t.port.Emit(t.slot, &t.req)
	t.req.Data = nil
}

// LoadEmpty reads a register of a slot without a device: its DeviceID is 0, at which a
// driver passes on (4.2.3.1.1). Stores to it do nothing.
func LoadEmpty(off uint64, size int) (uint64, bool) {
	switch {
	case off >= regConfig && off < SlotSize:
		return 0, true
	case off >= SlotSize || size != 4 || off%4 != 0:
		return 0, false
	case off == regMagic:
		return magic, true
	case off == regVersion:
		return version, true
	case off == regVendorID:
		return vendorID, true
	}
	return 0, true
}
