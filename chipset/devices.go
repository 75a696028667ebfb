package chipset

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"ft/chipset/backend"
	"ft/chipset/module"
	"ft/drivers"
)

// This file is the machine's devices on the host's side. Disk and NIC are there while the
// machine is switched on, the console as long as the driver.

func (d *driver) openConsole() error {
	path := ConsolePath(d.cfg.RunDir, d.cfg.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	c, err := backend.OpenConsole(backend.ConsoleConfig{
		Socket: path, Log: filepath.Join(d.cfg.StateDir, d.cfg.Name+".console.log"), LogBytes: d.opt.ConsoleLogBytes,
		Typed: func(p []byte) { d.inbox.keys(p) },
	})
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.devices.console = c
	return nil
}

// openDevices opens what is configured. Under changeMu.
func (d *driver) openDevices() error {
	var disk *backend.Disk
	var nic *backend.Network
	var err error
	if d.opt.Disk != "" {
		disk, err = backend.OpenDisk(backend.DiskConfig{Path: d.opt.Disk})
		if errors.Is(err, unix.EROFS) || errors.Is(err, backend.ErrUnfit) {
			err = drivers.Refuse(drivers.RuleUnfit, "%v", err)
		}
		if err != nil {
			return err
		}
	}
	if d.opt.Link != "" || d.opt.TAP != "" {
		mac, _ := net.ParseMAC(d.opt.MAC) // checked with the options
		nic, err = backend.OpenNetwork(backend.NetworkConfig{
			Link: d.opt.Link, Name: macvtapName(d.cfg.Name, d.opt.Link), Device: d.opt.TAP, MAC: mac,
			Frame: d.inbox.frame, Carrier: d.carrier,
		})
		if err != nil {
			if disk != nil {
				_ = disk.Close()
			}
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.devices.disk, d.devices.nic = disk, nic
	return nil
}

// macvtapName is the name of the machine's macvtap, of the length that the kernel allows.
func macvtapName(machine, link string) string {
	if link == "" {
		return ""
	}
	name := "mvtap-" + machine
	if len(name) >= unix.IFNAMSIZ { // told from other long names by its sum
		name = fmt.Sprintf("mvtap-%08x", crc32.ChecksumIEEE([]byte(machine)))
	}
	return name
}

// carrier passes the state of the NIC's link on to the guest.
func (d *driver) carrier(up bool) {
	in := module.Input{Kind: module.InputLink}
	if up {
		in.Status = 1
	}
	d.inbox.put(in, nil)
	word := "down"
	if up {
		word = "up"
	}
	d.note(fmt.Sprintf("the NIC's link is %s", word))
}

// closeDevices gives disk and NIC back. Under changeMu.
func (d *driver) closeDevices() {
	d.mu.Lock()
	disk, nic := d.devices.disk, d.devices.nic
	d.devices.disk, d.devices.nic = nil, nil
	d.mu.Unlock()
	if nic != nil {
		if err := nic.Close(); err != nil {
			d.env.Log.Warn("the NIC is given up", "err", err)
		}
	}
	if disk != nil {
		if err := disk.Close(); err != nil {
			d.env.Log.Warn("the disk is given up", "err", err)
		}
	}
}

// deviceStats are for `ftctl show`. Under mu.
func (d *driver) deviceStats(s map[string]any) {
	if disk := d.devices.disk; disk != nil {
		st := disk.Stats()
		m := map[string]any{
			"path": d.opt.Disk, "size": disk.Size(), "direct": disk.Direct(),
			"reads": st.Reads, "writes": st.Writes, "read_bytes": st.ReadBytes, "write_bytes": st.WrittenBytes,
			"flushes": st.Flushes, "discards": st.Discards, "errors": st.Errors, "in_flight": st.Outside,
		}
		if st.LastError != "" {
			m["last_error"] = st.LastError
		}
		s["disk"] = m
	}
	if nic := d.devices.nic; nic != nil {
		st := nic.Stats()
		link := d.opt.Link
		if link == "" {
			link = d.opt.TAP
		}
		m := map[string]any{
			"link": link, "interface": st.Interface, "netns": d.opt.Netns, "mac": d.opt.MAC, "up": st.Up,
			"rx_packets": st.Received, "tx_packets": st.Sent, "rx_bytes": st.RecvBytes, "tx_bytes": st.SentBytes,
			"rx_dropped": d.inbox.lost(), "tx_dropped": st.DroppedNoRoom + st.DroppedDown + st.DroppedRefused,
		}
		if !st.Up {
			m["reason"] = st.Reason
		}
		s["nic"] = m
	}
	if c := d.devices.console; c != nil {
		st := c.Stats()
		s["console"] = map[string]any{"watchers": st.Watchers, "bytes_out": st.Written, "bytes_in": d.inbox.keysTaken()}
	}
}
