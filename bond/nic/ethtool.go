package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctls of linux/ethtool.h. They work where /sys is another namespace's, and on
// every kernel. The poll of the carrier (ETHTOOL_GLINK) is bond/monitor's.

const (
	ethSSFeatures = 4  // ETH_SS_FEATURES, linux/ethtool.h
	gstringLen    = 32 // ETH_GSTRING_LEN, linux/ethtool.h
	setsMax       = 64 // of features a kernel could have, in words of 32: a bound against nonsense

	speedUnknown = 0xffffffff // SPEED_UNKNOWN, linux/ethtool.h
	duplexFull   = 1          // DUPLEX_FULL, linux/ethtool.h
)

// control asks the driver of a NIC. The command is the first word of what it carries.
func control(name string, data unsafe.Pointer) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket for ethtool: %w", err)
	}
	defer unix.Close(fd)
	// struct ifreq, linux/if.h: a name, and a union of at most 24 bytes.
	var request struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}
	if len(name) >= len(request.name) {
		return fmt.Errorf("ethtool cannot name %s: %w", name, unix.ENAMETOOLONG)
	}
	copy(request.name[:], name)
	request.data = data
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	if errno != 0 {
		return errno
	}
	return nil
}

// busAddress is where a NIC's driver says that it sits, "" when it does not.
func busAddress(name string) string {
	info := unix.EthtoolDrvinfo{Cmd: unix.ETHTOOL_GDRVINFO}
	if control(name, unsafe.Pointer(&info)) != nil {
		return ""
	}
	return strings.ToLower(unix.ByteSliceToString(info.Bus_info[:]))
}

// burntIn is a NIC's permanent MAC, nil when it has none: what IFLA_PERM_ADDRESS says
// since Linux 5.6.
func burntIn(name string) net.HardwareAddr {
	var perm struct { // struct ethtool_perm_addr
		cmd, size uint32
		data      [32]byte // MAX_ADDR_LEN, linux/netdevice.h
	}
	perm.cmd, perm.size = unix.ETHTOOL_GPERMADDR, uint32(len(perm.data))
	if control(name, unsafe.Pointer(&perm)) != nil || perm.size != macLen {
		return nil
	}
	mac := bytes.Clone(perm.data[:macLen])
	if checkMAC(mac) != nil {
		return nil
	}
	return mac
}

// feature is an offload as ethtool -k shows it.
type feature struct {
	changeable bool
	requested  bool // someone wants it
	active     bool // it is on
}

// featureSet is what a NIC can do, by the kernel's names (net/ethtool/common.c).
type featureSet struct {
	names []string
	words []featureWord
}

// featureWord is struct ethtool_get_features_block.
type featureWord struct{ available, requested, active, neverChanged uint32 }

func (fs featureSet) get(name string) (feature, bool) {
	for i, n := range fs.names {
		if n == name && i/32 < len(fs.words) {
			w, bit := fs.words[i/32], uint32(1)<<(i%32)
			return feature{w.available&bit != 0, w.requested&bit != 0, w.active&bit != 0}, true
		}
	}
	return feature{}, false
}

// features reads all of a NIC's. A NIC whose driver knows no ethtool has none.
func features(name string) (featureSet, error) {
	none := func(step string, err error) (featureSet, error) {
		if errors.Is(err, unix.EOPNOTSUPP) {
			return featureSet{}, nil
		}
		return featureSet{}, fmt.Errorf("read the features of %s (%s): %w", name, step, err)
	}
	var count struct { // struct ethtool_sset_info
		cmd, _ uint32
		mask   uint64
		data   [1]uint32
		_      uint32
	}
	count.cmd, count.mask = unix.ETHTOOL_GSSET_INFO, 1<<ethSSFeatures
	if err := control(name, unsafe.Pointer(&count)); err != nil {
		return none("ETHTOOL_GSSET_INFO", err)
	}
	n := int(count.data[0])
	if count.mask == 0 || n == 0 {
		return featureSet{}, nil
	}
	words := (n + 31) / 32
	if words > setsMax {
		return none("ETHTOOL_GSSET_INFO", fmt.Errorf("the kernel says that there are %d", n))
	}

	// struct ethtool_gstrings: cmd, string_set, len, and n names.
	names := make([]byte, 12+n*gstringLen)
	binary.NativeEndian.PutUint32(names[0:], unix.ETHTOOL_GSTRINGS)
	binary.NativeEndian.PutUint32(names[4:], ethSSFeatures)
	binary.NativeEndian.PutUint32(names[8:], uint32(n))
	if err := control(name, unsafe.Pointer(&names[0])); err != nil {
		return none("ETHTOOL_GSTRINGS", err)
	}
	// struct ethtool_gfeatures: cmd, size, and a block for each word.
	blocks := make([]uint32, 2+4*words)
	blocks[0], blocks[1] = unix.ETHTOOL_GFEATURES, uint32(words)
	if err := control(name, unsafe.Pointer(&blocks[0])); err != nil {
		return none("ETHTOOL_GFEATURES", err)
	}

	var fs featureSet
	for i := range n {
		fs.names = append(fs.names, unix.ByteSliceToString(names[12+i*gstringLen:][:gstringLen]))
	}
	for i := range words {
		b := blocks[2+4*i:]
		fs.words = append(fs.words, featureWord{b[0], b[1], b[2], b[3]})
	}
	return fs, nil
}

// setFeature asks for a feature, or no longer. One that cannot be turned off is an error;
// one that is asked for comes when the rest of the NIC's features allow it.
func setFeature(nic, name string, on bool) error {
	fs, err := features(nic)
	if err != nil {
		return err
	}
	// struct ethtool_sfeatures: cmd, size, and valid and requested for each word.
	blocks := make([]uint32, 2+2*len(fs.words))
	blocks[0], blocks[1] = unix.ETHTOOL_SFEATURES, uint32(len(fs.words))
	for i, n := range fs.names {
		if n == name && i/32 < len(fs.words) {
			bit := uint32(1) << (i % 32)
			blocks[2+2*(i/32)] = bit
			if on {
				blocks[3+2*(i/32)] = bit
			}
		}
	}
	if err := control(nic, unsafe.Pointer(&blocks[0])); err != nil {
		return fmt.Errorf("ETHTOOL_SFEATURES: %w", err)
	}
	if fs, err = features(nic); err != nil {
		return err
	}
	f, _ := fs.get(name)
	switch {
	case f.requested != on:
		return errors.New("the driver does not let it be changed")
	case f.active && !on:
		return errors.New("the driver keeps it on")
	}
	return nil
}

// Speed is how fast a NIC's link is, and whether in both directions at once.
type Speed struct {
	Mbit int
	Full bool
}

// LinkSpeed asks a NIC's driver. It is zero where the driver does not know, as without
// carrier.
func LinkSpeed(name string) (Speed, error) {
	// struct ethtool_link_settings. The first call tells how wide the masks of link modes
	// are, as a negative number; the second, with that width, gets the settings.
	var ask struct {
		cmd, speed                                            uint32
		duplex, port, phy, autoneg, mdio, mdix, mdixCtrl      uint8
		words                                                 int8
		transceiver, masterSlave, masterSlaveState, rateMatch uint8
		_                                                     [7]uint32
		masks                                                 [3 * 127]uint32
	}
	ask.cmd = unix.ETHTOOL_GLINKSETTINGS
	err := control(name, unsafe.Pointer(&ask))
	if err == nil && ask.words < 0 {
		ask.cmd, ask.words = unix.ETHTOOL_GLINKSETTINGS, -ask.words
		err = control(name, unsafe.Pointer(&ask))
	}
	switch {
	case err == nil:
		return speed(ask.speed, ask.duplex), nil
	case !errors.Is(err, unix.EOPNOTSUPP):
		return Speed{}, fmt.Errorf("ask %s for the speed of its link: %w", name, err)
	}
	// Drivers and kernels before 4.6 know only struct ethtool_cmd.
	var old struct {
		cmd, supported, advertising               uint32
		speed                                     uint16
		duplex, port, phy, transceiver, neg, mdio uint8
		maxTx, maxRx                              uint32
		speedHigh                                 uint16
		mdix, mdixCtrl                            uint8
		partner                                   uint32
		_                                         [2]uint32
	}
	old.cmd = unix.ETHTOOL_GSET
	switch err := control(name, unsafe.Pointer(&old)); {
	case errors.Is(err, unix.EOPNOTSUPP):
		return Speed{}, nil
	case err != nil:
		return Speed{}, fmt.Errorf("ask %s for the speed of its link: %w", name, err)
	}
	return speed(uint32(old.speedHigh)<<16|uint32(old.speed), old.duplex), nil
}

func speed(mbit uint32, duplex uint8) Speed {
	// 0xffff is what a driver that knows only the old structure has for -1.
	if mbit == 0 || mbit >= 1<<31 || mbit == 0xffff || mbit == speedUnknown {
		return Speed{}
	}
	return Speed{Mbit: int(mbit), Full: duplex == duplexFull}
}
