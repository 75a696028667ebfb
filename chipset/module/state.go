package module

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"ft/chipset/firmware"
)

// A machine's state, memory apart: hart, PLIC, UART, clock, then each virtio device with its
// length before it, then what the guest asked to be reset with. All little-endian, in one
// canonical form: equal machines have equal states, so that states can be digested.

const stateVersion = 1

// resetState is a Reset, or none.
type resetState struct {
	Asked        bool
	Kind, Reason uint32
}

// SaveState appends the state to dst. What the guest has typed has left before (Run sees to
// it).
func (m *Machine) SaveState(dst []byte) []byte {
	hart := m.hart.State()
	var reset resetState
	if m.reset != nil {
		reset = resetState{true, uint32(m.reset.Kind), uint32(m.reset.Reason)}
	}
	dst = binary.LittleEndian.AppendUint32(dst, stateVersion)
	for _, part := range []any{hart.Words(), m.plic.State(), m.uart.State(), m.rtc.State(), reset} {
		dst, _ = binary.Append(dst, binary.LittleEndian, part) // all of fixed size: it never fails
	}
	for _, d := range m.slots {
		at := len(dst)
		dst = append(dst, 0, 0, 0, 0)
		if d != nil {
			dst = d.SaveState(dst)
		}
		binary.LittleEndian.PutUint32(dst[at:], uint32(len(dst)-at-4))
	}
	return dst
}

// LoadState makes m what SaveState described of a machine of the same Config, whose memory
// has been copied to m's before. After an error m is of no use.
func (m *Machine) LoadState(b []byte) error {
	r := bytes.NewReader(b)
	var version uint32
	hart := m.hart.State()
	var plic PLICState
	var uart UARTState
	var rtc RTCState
	var reset resetState
	for _, part := range []any{&version, hart.Words(), &plic, &uart, &rtc, &reset} {
		if err := binary.Read(r, binary.LittleEndian, part); err != nil {
			return fmt.Errorf("the state of a machine ends too early: %w", err)
		}
	}
	if version != stateVersion {
		return fmt.Errorf("a machine's state of version %d, version %d is known", version, stateVersion)
	}
	var devices [slotCount][]byte
	for i, d := range m.slots {
		var n uint32
		if err := binary.Read(r, binary.LittleEndian, &n); err != nil || int64(n) > int64(r.Len()) {
			return errors.New("the state of a machine ends within its devices")
		}
		if (n > 0) != (d != nil) {
			return fmt.Errorf("the state is of a machine with other devices: slot %d", i)
		}
		devices[i] = b[len(b)-r.Len():][:n]
		_, _ = r.Seek(int64(n), 1) // within what is left
	}
	if r.Len() > 0 {
		return fmt.Errorf("%d bytes lie behind the state of a machine", r.Len())
	}
	m.hart.SetState(hart)
	m.rtc.SetState(rtc)
	m.uart.SetState(uart)
	for i, d := range m.slots {
		if d != nil {
			if err := d.LoadState(devices[i]); err != nil {
				return fmt.Errorf("slot %d: %w", i, err)
			}
		}
	}
	m.plic.SetState(plic) // last: what the devices drove is in it
	m.reset = nil
	if reset.Asked {
		m.reset = &Reset{firmware.ResetType(reset.Kind), firmware.ResetReason(reset.Reason)}
	}
	m.typedN = 0
	return nil
}
