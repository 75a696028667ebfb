package metadata

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// NewUUID draws a random identifier (RFC 9562, version 4).
func NewUUID() UUID {
	var u UUID
	rand.Read(u[:]) // never fails, see crypto/rand
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// IsZero says whether u names nothing.
func (u UUID) IsZero() bool { return u == UUID{} }

// String is the usual form in five groups of hexadecimal digits.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// ParseUUID is the inverse of String.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return UUID{}, fmt.Errorf("%q is not a UUID (8-4-4-4-12 hexadecimal digits)", s)
	}
	if _, err := hex.Decode(u[:], []byte(s[:8]+s[9:13]+s[14:18]+s[19:23]+s[24:])); err != nil {
		return UUID{}, fmt.Errorf("%q is not a UUID: %w", s, err)
	}
	return u, nil
}

// MarshalText is String.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseUUID.
func (u *UUID) UnmarshalText(b []byte) (err error) {
	*u, err = ParseUUID(string(b))
	return err
}

// IsZero says whether g is no generation: that of a leg that never was in service.
func (g Generation) IsZero() bool { return g == Generation{} }

// String is short, for people: the counter and the beginning of the identifier.
func (g Generation) String() string {
	if g.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%d (%s…)", g.Counter, hex.EncodeToString(g.ID[:2]))
}

// long is the form with the whole identifier.
func (g Generation) long() string {
	if g.IsZero() {
		return "none"
	}
	return fmt.Sprintf("%d %s", g.Counter, g.ID)
}
