package announce

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
)

// A decoder that shares nothing with the encoders but the types of addresses. It refuses
// what a strict receiver would: wrong lengths, wrong checksums, wrong hop limits.

// decoded is a frame in words.
type decoded struct {
	src, dst mac
	tags     string // as "5" or "100.5"
	what     string
}

func (d decoded) String() string {
	at := ""
	if d.tags != "" {
		at = " vlan " + d.tags
	}
	return fmt.Sprintf("%x > %x%s: %s", d.src, d.dst, at, d.what)
}

func decode(f []byte) (d decoded, err error) {
	if len(f) < 14 {
		return d, fmt.Errorf("%d bytes are no frame", len(f))
	}
	d.dst, d.src = mac(f[0:6]), mac(f[6:12])
	rest := f[12:]
	var tags []string
	for len(rest) >= 4 && (be16(rest) == 0x8100 || be16(rest) == 0x88a8) {
		tags = append(tags, fmt.Sprint(be16(rest[2:])))
		rest = rest[4:]
	}
	d.tags = strings.Join(tags, ".")
	kind, body := be16(rest), rest[2:]
	switch kind {
	case 0x0806, 0x8035:
		d.what, err = decodeARP(kind, body, d)
	case 0x0800:
		d.what, err = decodeIGMP(body, d)
	case 0x86dd:
		d.what, err = decodeICMPv6(body, d)
	default:
		err = fmt.Errorf("type %#x", kind)
	}
	return d, err
}

func be16(b []byte) uint16 { return binary.BigEndian.Uint16(b) }

func decodeARP(kind uint16, b []byte, d decoded) (string, error) {
	if len(b) != 28 || be16(b) != 1 || be16(b[2:]) != 0x800 || b[4] != 6 || b[5] != 4 {
		return "", fmt.Errorf("ARP % x", b)
	}
	op, sha, spa, tha, tpa := be16(b[6:]), mac(b[8:14]), netip.AddrFrom4([4]byte(b[14:18])), mac(b[18:24]), netip.AddrFrom4([4]byte(b[24:28]))
	if sha != d.src || d.dst != (mac{255, 255, 255, 255, 255, 255}) {
		return "", fmt.Errorf("ARP of %x from %x to %x", sha, d.src, d.dst)
	}
	switch {
	case kind == 0x806 && op == 1 && spa == tpa && tha == mac{}:
		return "garp " + spa.String(), nil
	case kind == 0x8035 && op == 3 && tha == sha && spa.IsUnspecified() && tpa.IsUnspecified():
		return "rarp", nil
	}
	return "", fmt.Errorf("type %#x op %d %v %x %v", kind, op, spa, tha, tpa)
}

// sum16 is the Internet checksum, in another way: modulo 0xffff.
func sum16(parts ...[]byte) uint16 {
	var sum uint64
	for _, b := range parts {
		for i, c := range b {
			sum += uint64(c) << (8 * (1 - i%2))
		}
	}
	return uint16(sum % 0xffff)
}

var reportKinds = map[byte]string{4: "to_ex", 5: "allow"}

func decodeIGMP(b []byte, d decoded) (string, error) {
	if len(b) < 32 || b[0] != 0x46 || b[1] != 0xc0 || int(be16(b[2:])) != len(b) || b[8] != 1 || b[9] != 2 {
		return "", fmt.Errorf("IPv4 % x", b)
	}
	if string(b[20:24]) != "\x94\x04\x00\x00" {
		return "", fmt.Errorf("no router alert in % x", b[20:24])
	}
	if sum16(b[:24]) != 0 || sum16(b[24:]) != 0 {
		return "", fmt.Errorf("checksums of % x", b)
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	if d.dst != (mac{1, 0, 0x5e, b[17] & 0x7f, b[18], b[19]}) {
		return "", fmt.Errorf("%x for %v", d.dst, dst)
	}
	m := b[24:]
	switch m[0] {
	case 0x12, 0x16:
		if g := netip.AddrFrom4([4]byte(m[4:8])); len(m) != 8 || g != dst {
			return "", fmt.Errorf("report of %v to %v", g, dst)
		}
		return fmt.Sprintf("igmpv%d %v from %v", 1+(m[0]>>2)&1, dst, src), nil
	case 0x22:
		if dst.String() != "224.0.0.22" {
			return "", fmt.Errorf("a report to %v", dst)
		}
		records, err := decodeRecords(m[6:], 4)
		return fmt.Sprintf("igmpv3 %s from %v", records, src), err
	}
	return "", fmt.Errorf("IGMP type %#x", m[0])
}

func decodeRecords(b []byte, size int) (string, error) {
	n, b := be16(b), b[2:]
	var out []string
	for range n {
		if len(b) < 4+size || b[1] != 0 || reportKinds[b[0]] == "" {
			return "", fmt.Errorf("record % x", b)
		}
		sources := int(be16(b[2:]))
		g, _ := netip.AddrFromSlice(b[4 : 4+size])
		text := reportKinds[b[0]] + " " + g.String()
		b = b[4+size:]
		for range sources {
			if len(b) < size {
				return "", fmt.Errorf("source % x", b)
			}
			s, _ := netip.AddrFromSlice(b[:size])
			text += "," + s.String()
			b = b[size:]
		}
		out = append(out, text)
	}
	if len(b) != 0 {
		return "", fmt.Errorf("%d bytes behind the records", len(b))
	}
	return strings.Join(out, "; "), nil
}

func decodeICMPv6(b []byte, d decoded) (string, error) {
	if len(b) < 40 || b[0] != 0x60 || b[1]|b[2]|b[3] != 0 || int(be16(b[4:])) != len(b)-40 {
		return "", fmt.Errorf("IPv6 % x", b)
	}
	next, hops, m := b[6], b[7], b[40:]
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	if d.dst != (mac{0x33, 0x33, b[36], b[37], b[38], b[39]}) {
		return "", fmt.Errorf("%x for %v", d.dst, dst)
	}
	alert := next == 0
	if alert {
		if len(m) < 8 || string(m[:8]) != "\x3a\x00\x05\x02\x00\x00\x01\x00" {
			return "", fmt.Errorf("hop-by-hop options % x", m)
		}
		next, m = m[0], m[8:]
	}
	if next != 58 || len(m) < 8 {
		return "", fmt.Errorf("protocol %d", next)
	}
	length := binary.BigEndian.AppendUint32(nil, uint32(len(m)))
	if sum16(b[8:40], length, []byte{0, 0, 0, 58}, m) != 0 {
		return "", fmt.Errorf("checksum of % x", m)
	}
	switch m[0] {
	case 136:
		target := netip.AddrFrom16([16]byte(m[8:24]))
		if alert || hops != 255 || len(m) != 32 || target != src || dst.String() != "ff02::1" || m[24] != 2 || m[25] != 1 || mac(m[26:32]) != d.src {
			return "", fmt.Errorf("advertisement % x", b)
		}
		flags := ""
		for bit, c := range map[byte]string{0x80: "R", 0x40: "S", 0x20: "O"} {
			if m[4]&bit != 0 {
				flags += c
			}
		}
		if len(flags) == 2 {
			flags = "RO" // the order of a map is none
		}
		return fmt.Sprintf("na %v %s", target, flags), nil
	case 131:
		if g := netip.AddrFrom16([16]byte(m[8:24])); !alert || hops != 1 || len(m) != 24 || g != dst {
			return "", fmt.Errorf("report % x", b)
		}
		return fmt.Sprintf("mldv1 %v from %v", dst, src), nil
	case 143:
		if !alert || hops != 1 || dst.String() != "ff02::16" {
			return "", fmt.Errorf("report % x", b)
		}
		records, err := decodeRecords(m[6:], 16)
		return fmt.Sprintf("mldv2 %s from %v", records, src), err
	}
	return "", fmt.Errorf("ICMPv6 type %d", m[0])
}
