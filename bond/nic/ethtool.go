package nic

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// ethtool opens the socket that the ioctls of linux/ethtool.h are sent through, in the
// namespace of the caller.
func ethtool() (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a socket for ethtool: %w", err)
	}
	return fd, nil
}

// busAddress is where a NIC's driver says that it sits, "" when it does not.
func busAddress(name string) string {
	fd, err := ethtool()
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, name)
	if err != nil {
		return ""
	}
	return strings.ToLower(unix.ByteSliceToString(info.Bus_info[:]))
}
