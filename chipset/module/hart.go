package module

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"ft/chipset/rv64"
)

// HartState is the hart's part of what SaveState gave.
func HartState(saved []byte) (rv64.State, error) {
	var version uint32
	var s rv64.State
	r := bytes.NewReader(saved)
	for _, part := range []any{&version, s.Words()} {
		if err := binary.Read(r, binary.LittleEndian, part); err != nil {
			return s, fmt.Errorf("the state of a machine ends too early: %w", err)
		}
	}
	if version != stateVersion {
		return s, fmt.Errorf("a machine's state of version %d, version %d is known", version, stateVersion)
	}
	return s, nil
}
