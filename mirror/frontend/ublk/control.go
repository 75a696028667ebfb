package ublk

// The control device of the ublk driver, from include/uapi/linux/ublk_cmd.h with the
// kernel's names.

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const controlPath = "/dev/ublk-control"

// iowr is _IOWR('u', n, size), ior is _IOR.
func iowr(n, size uint32) uint32 { return 3<<30 | size<<16 | 'u'<<8 | n }
func ior(n, size uint32) uint32  { return 2<<30 | size<<16 | 'u'<<8 | n }

// ctrlCmd is struct ublksrv_ctrl_cmd.
type ctrlCmd struct {
	devID      uint32
	queueID    uint16
	len        uint16
	addr       uint64
	data       uint64
	devPathLen uint16
	pad        uint16
	reserved   uint32
}

// devInfo is struct ublksrv_ctrl_dev_info, with names for what is used of it.
type devInfo struct {
	nrHwQueues    uint16
	queueDepth    uint16
	state         uint16
	_             uint16
	maxIOBufBytes uint32
	devID         uint32
	ublksrvPid    int32
	_             uint32
	flags         uint64
	ublksrvFlags  uint64 // the server's own: whose device it is, see markOf
	_, _          uint32 // owner_uid, owner_gid
	_             [2]uint64
}

// params is struct ublk_params, as far as the discards.
type params struct {
	len, types uint32
	basic      struct {
		attrs                                                   uint32
		logicalBsShift, physicalBsShift, ioOptShift, ioMinShift uint8
		maxSectors, chunkSectors                                uint32
		devSectors, virtBoundaryMask                            uint64
	}
	discard struct {
		alignment, granularity, maxDiscardSectors, maxWriteZeroesSectors uint32
		maxSegments, reserved                                            uint16
	}
}

// ioCmd is struct ublksrv_io_cmd.
type ioCmd struct {
	qID, tag uint16
	result   int32
	addr     uint64
}

// ioDesc is struct ublksrv_io_desc.
type ioDesc struct {
	opFlags     uint32
	nrSectors   uint32
	startSector uint64
	addr        uint64
}

var (
	ctrlBytes           = uint32(unsafe.Sizeof(ctrlCmd{}))
	cmdGetDevInfo       = ior(0x02, ctrlBytes)
	cmdGetFeatures      = ior(0x13, ctrlBytes)
	cmdAddDev           = iowr(0x04, ctrlBytes)
	cmdDelDev           = iowr(0x05, ctrlBytes)
	cmdStartDev         = iowr(0x06, ctrlBytes)
	cmdStopDev          = iowr(0x07, ctrlBytes)
	cmdSetParams        = iowr(0x08, ctrlBytes)
	cmdStartRecovery    = iowr(0x10, ctrlBytes)
	cmdEndRecovery      = iowr(0x11, ctrlBytes)
	ioFetchReq          = iowr(0x20, uint32(unsafe.Sizeof(ioCmd{})))
	ioCommitAndFetchReq = iowr(0x21, uint32(unsafe.Sizeof(ioCmd{})))
)

// Flags of a device (UBLK_F_…).
const (
	fUserRecovery        = 1 << 3
	fUserRecoveryReissue = 1 << 4
	fCmdIoctlEncode      = 1 << 6
	fUserCopy            = 1 << 7
	flagsNeeded          = fUserRecovery | fUserRecoveryReissue | fCmdIoctlEncode | fUserCopy
)

// stateDead is UBLK_S_DEV_DEAD: the device was stopped.
const stateDead = 0

// Parameters (UBLK_PARAM_TYPE_…, UBLK_ATTR_…).
const (
	paramBasic        = 1 << 0
	paramDiscard      = 1 << 1
	attrVolatileCache = 1 << 2
)

// Requests (UBLK_IO_OP_…), in the low byte of op_flags.
const (
	ioOpRead        = 0
	ioOpWrite       = 1
	ioOpFlush       = 2
	ioOpDiscard     = 3
	ioOpWriteZeroes = 5
)

// Where the payload of a request is read and written on the character device.
const (
	ioBufOffset = 0x80000000
	tagOffset   = 25
)

// errNoDriver: this kernel has no ublk driver, or it is not loaded.
var errNoDriver = errors.New("this kernel has no ublk driver: load the module (modprobe ublk_drv), or use another frontend")

// Available says why this kernel cannot have such faces; nil: it can.
func Available() error {
	c, err := openControl()
	if err != nil {
		return err
	}
	defer c.close()
	var features uint64
	if err := c.do("ask the ublk driver for its features", cmdGetFeatures, withMemory(anyDevice, &features)); err != nil {
		return fmt.Errorf("%w (Linux 6.5 has what is needed)", err)
	}
	if features&flagsNeeded != flagsNeeded {
		return lacks(features)
	}
	return nil
}

func lacks(flags uint64) error {
	return fmt.Errorf("the kernel's ublk driver lacks what is needed (it has the flags %#x of %#x): Linux 6.5 has it", flags&flagsNeeded, uint64(flagsNeeded))
}

// control is the control device with a ring for its commands. One goroutine at a time.
type control struct {
	fd   int
	ring *ring
}

func openControl() (*control, error) {
	fd, err := unix.Open(controlPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNoDriver
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", controlPath, err)
	}
	r, err := newRing(4, ioringSetupSQE128)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return &control{fd, r}, nil
}

func (c *control) close() {
	c.ring.close()
	unix.Close(c.fd)
}

// do carries out a command and waits for its end.
func (c *control) do(what string, op uint32, cmd ctrlCmd) error {
	cmd.queueID = ^uint16(0)
	c.ring.command(c.fd, op, unsafe.Slice((*byte)(unsafe.Pointer(&cmd)), unsafe.Sizeof(cmd)), 0)
	if err := c.ring.submit(1); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for {
		if e, ok := c.ring.next(); ok {
			if e.res < 0 {
				return fmt.Errorf("%s: %w", what, syscall.Errno(-e.res))
			}
			return nil
		}
		if err := c.ring.submit(1); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// withMemory gives a command memory to read or fill.
func withMemory[T any](id uint32, v *T) ctrlCmd {
	return ctrlCmd{devID: id, addr: uint64(uintptr(unsafe.Pointer(v))), len: uint16(unsafe.Sizeof(*v))}
}
