package testbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"ft/ftd/api"
	"ft/ftd/testbox/guest"
	"ft/ftd/testbox/network"
)

// disk is one mirror of the box; its legs are files in the box's directory.
type disk struct {
	name string
	legs [2]string // files
	node [2]string // loop devices, once attached
}

// boxName is what the box is called.
const boxName = "box"

func disks(dir string) []disk {
	var ds []disk
	for _, name := range []string{"disk0", guestDisk} {
		d := disk{name: name}
		for side := range d.legs {
			d.legs[side] = filepath.Join(dir, fmt.Sprintf("%s-pci%d.img", name, side))
		}
		ds = append(ds, d)
	}
	return ds
}

// nicName is the box's network interface.
const nicName = "net0"

// nicConfig is the table of the NIC, in the namespace that its ports are in.
func nicConfig(netns string) string {
	quoted := make([]string, len(network.BoxAddresses))
	for i, a := range network.BoxAddresses {
		quoted[i] = strconv.Quote(a.String())
	}
	return fmt.Sprintf("\n[[nic]]\nname = %q\npci0 = %q\npci1 = %q\nnetns = %q\naddresses = [%s]\nprobe = [%q]\n",
		nicName, network.NICs[0], network.NICs[1], netns, strings.Join(quoted, ", "), network.PeerAddresses[0].Addr())
}

// pageAddress is where the status page of the box on the default socket is. Others have none:
// there is one such port. Where it is taken, ftd says so and goes on.
const pageAddress = "127.0.0.1:8090"

func (b *box) page() string {
	if b.Socket == api.DefaultSocket {
		return pageAddress
	}
	return ""
}

// writeConfig makes the ft.toml of the box. The loop devices are others at each
// start, so it is written anew each time. Without a network there is no NIC.
func writeConfig(path, page string, ds []disk, net network.Names, g guest.Guest) error {
	var b strings.Builder
	b.WriteString("# The test box's own: written anew at each start of `ftd --testbox`.\n\n" +
		"[system]\nname = \"" + boxName + "\"\nbringup = \"auto\"\ndrills = true\n")
	if page != "" {
		fmt.Fprintf(&b, "status_page = %q\n", page)
	}
	for _, d := range ds {
		fmt.Fprintf(&b, "\n[[disk]]\nname = %q\npci0 = %q # %s\npci1 = %q # %s\n",
			d.name, d.node[0], filepath.Base(d.legs[0]), d.node[1], filepath.Base(d.legs[1]))
	}
	if net.Box != "" {
		b.WriteString(nicConfig(net.Box))
	}
	b.WriteString(machineConfig(g, net.Box != ""))
	return replaceFile(path, []byte(b.String()))
}

// record is what a later start must know to clean up after this one, besides what it
// finds by itself (processes and network namespaces by their marks, loop devices by
// their files).
type record struct {
	RunDir     string   `json:"run_dir"`
	DevDir     string   `json:"dev_dir"`
	Faces      []string `json:"faces"`                // names of the links in DevDir
	Namespaces []string `json:"namespaces,omitempty"` // network namespaces by name
	NICs       []string `json:"nics,omitempty"`       // faces that may have eBPF programs pinned
}

const recordName = "testbox.json"

func readRecord(dir string) (*record, error) {
	path := filepath.Join(dir, recordName)
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for an earlier box: %w", err)
	}
	r := new(record)
	if err := json.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("%s, which says what an earlier box left behind, makes no sense: %w; if no ftd of it runs any more, remove the file", path, err)
	}
	return r, nil
}

func (r record) write(dir string) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, recordName), append(b, '\n'))
}

// replaceFile writes a file so that after a crash it is the old or the new one whole.
func replaceFile(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
