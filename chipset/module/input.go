package module

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"ft/chipset/virtio"
)

// Everything that reaches a machine from outside is an Input, applied between two of its
// steps. The same inputs at the same steps make the same machine.

// InputKind says what an input is.
type InputKind uint8

// Kinds of inputs.
const (
	InputTime       InputKind = iota + 1 // guest time from here on: Base, Num, Den
	InputWall                            // what time it is: Base, nanoseconds since 1970
	InputConsole                         // Data was typed
	InputCompletion                      // the answer to request ID of the device in Slot: Status, Data
	InputFrame                           // Data arrived for the NIC in Slot
	InputLink                            // the NIC's cable is in (Status 1) or out (0)
)

func (k InputKind) String() string {
	switch k {
	case InputTime:
		return "time"
	case InputWall:
		return "wall"
	case InputConsole:
		return "console"
	case InputCompletion:
		return "completion"
	case InputFrame:
		return "frame"
	case InputLink:
		return "link"
	}
	return fmt.Sprintf("input(%d)", uint8(k))
}

// AtLeast, as the Status of an InputTime, says that time may have gone beyond Base by then:
// it goes on from where it is, half as fast, until the next grant.
const AtLeast = 1

// Input is one of them. Which fields count depends on its kind; Data is read while it is
// applied.
type Input struct {
	Kind   InputKind
	Slot   uint8
	Status uint8
	ID     uint64
	Base   uint64 // ticks, or nanoseconds
	Num    uint32 // ticks for …
	Den    uint32 // … so many steps
	Data   []byte
}

// InputMax bounds an input's data: a request's is bounded by virtio.BlockDataMax.
const InputMax = virtio.BlockDataMax

// ErrInput is what an input that makes no sense is refused with; the machine is as before.
var ErrInput = errors.New("an input that the machine cannot take")

// Apply does an input at the present step.
func (m *Machine) Apply(in *Input) error {
	switch in.Kind {
	case InputTime:
		base, num, den := in.Base, in.Num, in.Den
		if now := m.hart.Time(); base < now && in.Status == AtLeast {
			base = now
			if den <= math.MaxUint32/2 {
				den *= 2
			} else {
				num /= 2
			}
		}
		if den == 0 || base < m.hart.Time() {
			return fmt.Errorf("%w: time goes on from %d at %d/%d a step, it is %d", ErrInput, in.Base, in.Num, in.Den, m.hart.Time())
		}
		m.hart.SetTime(base, num, den)
		m.rtc.Check()
	case InputWall:
		m.rtc.SetWall(in.Base)
	case InputConsole:
		if len(in.Data) > m.uart.Room() {
			return fmt.Errorf("%w: %d bytes typed, room for %d", ErrInput, len(in.Data), m.uart.Room())
		}
		m.uart.Receive(in.Data)
	case InputCompletion, InputFrame:
		if int(in.Slot) >= len(m.slots) || m.slots[in.Slot] == nil {
			return fmt.Errorf("%w: slot %d has no device", ErrInput, in.Slot)
		}
		if in.Kind == InputFrame {
			m.slots[in.Slot].Receive(in.Data)
		} else {
			m.slots[in.Slot].Complete(&virtio.Completion{ID: in.ID, Status: virtio.Status(in.Status), Data: in.Data})
		}
	case InputLink:
		if m.nic == nil {
			return fmt.Errorf("%w: there is no NIC", ErrInput)
		}
		m.nic.SetLink(in.Status != 0)
	default:
		return fmt.Errorf("%w: kind %d", ErrInput, in.Kind)
	}
	return nil
}

// inputHead is the length of what stands before the data of an encoded input.
const inputHead = 1 + 1 + 1 + 8 + 8 + 4 + 4 + 4

// Append encodes the input, little-endian.
func (in *Input) Append(b []byte) []byte {
	b = append(b, uint8(in.Kind), in.Slot, in.Status)
	b = binary.LittleEndian.AppendUint64(b, in.ID)
	b = binary.LittleEndian.AppendUint64(b, in.Base)
	b = binary.LittleEndian.AppendUint32(b, in.Num)
	b = binary.LittleEndian.AppendUint32(b, in.Den)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(in.Data)))
	return append(b, in.Data...)
}

// Decode is the inverse of Append for one whole input. Data lies in b.
func (in *Input) Decode(b []byte) error {
	if len(b) < inputHead {
		return fmt.Errorf("an encoded input of %d bytes, at least %d are needed", len(b), inputHead)
	}
	if n := binary.LittleEndian.Uint32(b[27:]); n > InputMax || int(n) != len(b)-inputHead {
		return fmt.Errorf("an encoded input with %d bytes of data says that they are %d", len(b)-inputHead, n)
	}
	*in = Input{
		Kind: InputKind(b[0]), Slot: b[1], Status: b[2],
		ID:   binary.LittleEndian.Uint64(b[3:]),
		Base: binary.LittleEndian.Uint64(b[11:]),
		Num:  binary.LittleEndian.Uint32(b[19:]),
		Den:  binary.LittleEndian.Uint32(b[23:]),
		Data: b[inputHead:],
	}
	return nil
}
