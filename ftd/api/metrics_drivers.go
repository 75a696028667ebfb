package api

import (
	"strings"
	"time"
)

// A stat is a number in a driver's Stats, and what it is called as a metric. path leads to it,
// "lockstep.quanta"; one that begins with "side." is looked for under each module that carries
// a side, "pci0.reads", and gets the side's labels.
type stat struct {
	path, name, kind, help string
	scale                  float64  // to base units; 0 means 1
	labels                 []string // besides the device's or the side's
}

const (
	milli = 1e-3
	micro = 1e-6
)

// statsOf are the stats of each kind of device; those under "" every driver has.
var statsOf = map[string][]stat{
	"": {
		{path: "events_dropped", name: "ft_driver_events_dropped_total", kind: counter, help: "Reports of the driver that nobody took; its snapshots make up for them."},
		{path: "host.log_drops", name: "ft_driver_log_drops_total", kind: counter, help: "Lines of the driver's log that were dropped rather than waited for."},
		{path: "host.notify_drops", name: "ft_driver_notify_drops_total", kind: counter, help: "Messages of the driver to the keeper that were dropped rather than waited for."},
		{path: "host.kept", name: "ft_driver_handles_kept", kind: gauge, help: "1 when the keeper holds a copy of all that the face is made of."},
	},
	"disk": {
		{path: "reads", name: "ft_disk_reads_total", kind: counter, help: "Reads of applications."},
		{path: "writes", name: "ft_disk_writes_total", kind: counter, help: "Writes of applications."},
		{path: "flushes", name: "ft_disk_flushes_total", kind: counter, help: "Flushes of applications."},
		{path: "zeroes", name: "ft_disk_zeroes_total", kind: counter, help: "Discards and write-zeroes of applications."},
		{path: "errors", name: "ft_disk_errors_total", kind: counter, help: "Requests of applications that were answered with an error."},
		{path: "written_bytes", name: "ft_disk_written_bytes_total", kind: counter, help: "What applications wrote."},
		{path: "resynced_bytes", name: "ft_disk_resynced_bytes_total", kind: counter, help: "What was copied from leg to leg."},
		{path: "healed", name: "ft_disk_healed_total", kind: counter, help: "Bad ranges of a leg that were written anew from the other one."},
		{path: "mismatch_bytes", name: "ft_disk_mismatch_bytes", kind: gauge, help: "What differed between the legs, not known which is wrong, since the last scrub that found nothing."},
		{path: "lost_bytes", name: "ft_disk_lost_bytes", kind: gauge, help: "What was wrong or unreadable on both legs, since the last scrub that found nothing."},
		{path: "scrub.position", name: "ft_disk_scrub_position_bytes", kind: gauge, help: "How far the scrub under way is, or the last one came."},
		{path: "stale_bytes", name: "ft_disk_stale_bytes", kind: gauge, help: "What the leg that is out lacks."},
		{path: "marked_extents", name: "ft_disk_marked_extents", kind: gauge, help: "Extents in the write-intent map."},
		{path: "extent_bytes", name: "ft_disk_extent_bytes", kind: gauge, help: "Size of an extent of the write-intent map."},
		{path: "size_bytes", name: "ft_disk_size_bytes", kind: gauge, help: "Size of the disk."},
		{path: "nbd.clients.connections", name: "ft_disk_nbd_clients", kind: gauge, help: "Connections to the disk's NBD socket."},
		{path: "nbd.clients.commands", name: "ft_disk_nbd_commands_total", kind: counter, help: "Commands of NBD clients."},
		{path: "nbd.clients.errors", name: "ft_disk_nbd_errors_total", kind: counter, help: "Commands of NBD clients that were answered with an error."},
		{path: "nbd.clients.cut", name: "ft_disk_nbd_cut_total", kind: counter, help: "NBD clients that were cut off, for not going on or for what they sent."},
		{path: "survives_crash", name: "ft_disk_survives_crash", kind: gauge, help: "1 when a driver process that dies is survived without an error (Linux 6.9)."},
		{path: "side.reads", name: "ft_disk_leg_reads_total", kind: counter, help: "Reads of a leg."},
		{path: "side.read_bytes", name: "ft_disk_leg_read_bytes_total", kind: counter, help: "What applications read from a leg."},
		{path: "side.sequential_reads", name: "ft_disk_leg_sequential_reads_total", kind: counter, help: "Reads of a leg that went on where one before had ended."},
		{path: "side.late_reads", name: "ft_disk_leg_late_reads_total", kind: counter, help: "Reads that a leg was so late with that the other one was asked as well."},
		{path: "side.read_time_us", name: "ft_disk_leg_read_seconds", kind: gauge, scale: micro, help: "How long a short read of a leg takes, lately; 0 when that is not known."},
		{path: "side.writes", name: "ft_disk_leg_writes_total", kind: counter, help: "Writes of a leg."},
		{path: "side.read_errors", name: "ft_disk_leg_read_errors_total", kind: counter, help: "Reads of a leg that failed."},
		{path: "side.wrong_bytes", name: "ft_disk_leg_wrong_bytes", kind: gauge, help: "What was wrong or unreadable on a leg, since the last scrub that found nothing."},
		{path: "side.write_errors", name: "ft_disk_leg_write_errors_total", kind: counter, help: "Writes of a leg that failed."},
	},
	"nic": {
		{path: "failovers", name: "ft_nic_failovers_total", kind: counter, help: "Times that the face went to the other NIC because of a failure."},
		{path: "switches", name: "ft_nic_switches_total", kind: counter, help: "Times that the face went to the other NIC by an admin's word or to return to the preferred one."},
		{path: "kernel_turns", name: "ft_nic_kernel_turns_total", kind: counter, help: "Failovers that the kernel's program did before any process was awake."},
		{path: "damped", name: "ft_nic_damped_total", kind: counter, help: "Times that a flapping NIC was kept out."},
		{path: "last_failover.gap_us", name: "ft_nic_last_failover_gap_seconds", kind: gauge, scale: micro, help: "From noticing to the other NIC carrying, at the last failover."},
		{path: "last_failover.at", name: "ft_nic_last_failover_timestamp_seconds", kind: gauge, help: "When the last failover was."},
		{path: "announcements", name: "ft_nic_announcements_total", kind: counter, help: "Times that the face was announced to its neighbours."},
		{path: "announce_frames", name: "ft_nic_announcement_frames_total", kind: counter, help: "Frames sent for that."},
		{path: "announce_errors", name: "ft_nic_announcement_errors_total", kind: counter, help: "Frames for that which could not be sent."},
		{path: "carrier_poll_late", name: "ft_nic_carrier_polls_late_total", kind: counter, help: "Looks at the carriers that came late."},
		{path: "carrier_poll_missed", name: "ft_nic_carrier_polls_missed_total", kind: counter, help: "Looks at the carriers that were left out."},
		{path: "carrier_poll_slowest_us", name: "ft_nic_carrier_poll_slowest_seconds", kind: gauge, scale: micro, help: "The longest that a look at the carriers took."},
		{path: "mtu", name: "ft_nic_mtu_bytes", kind: gauge, help: "MTU of the face."},
		{path: "dropped_no_port", name: "ft_nic_dropped_packets_total", kind: counter, help: "Packets of the face dropped because no NIC could carry them."},
		{path: "side.carrier", name: "ft_nic_port_carrier", kind: gauge, help: "1 when the NIC has a carrier."},
		{path: "side.carrier_losses", name: "ft_nic_port_carrier_losses_total", kind: counter, help: "Times that the NIC lost its carrier."},
		{path: "side.probes_sent", name: "ft_nic_port_probes_total", kind: counter, help: "Probes sent through the NIC."},
		{path: "side.probes_answered", name: "ft_nic_port_probes_answered_total", kind: counter, help: "Probes through the NIC that were answered."},
		{path: "side.probes_foreign", name: "ft_nic_port_probes_foreign_total", kind: counter, help: "Answers on the NIC that were none to a probe of its own."},
		{path: "side.probe_rtt_us", name: "ft_nic_port_probe_rtt_seconds", kind: gauge, scale: micro, help: "How long the last answered probe took."},
	},
	"machine": {
		{path: "boots", name: "ft_machine_boots_total", kind: counter, help: "Times that the machine was started or reset."},
		{path: "steps", name: "ft_machine_steps_total", kind: counter, help: "Instructions since the machine booted."},
		{path: "steps_per_second", name: "ft_machine_steps_per_second", kind: gauge, help: "Instructions a second while it computes."},
		{path: "idle_share", name: "ft_machine_idle_ratio", kind: gauge, help: "How much of the time the machine waits for interrupts, 0 to 1."},
		{path: "uptime_seconds", name: "ft_machine_uptime_seconds", kind: gauge, help: "Since the machine booted."},
		{path: "wall_lag_ms", name: "ft_machine_clock_lag_seconds", kind: gauge, scale: milli, help: "How far the machine's clock is behind this computer's."},
		{path: "memory_bytes", name: "ft_machine_memory_bytes", kind: gauge, help: "The machine's memory."},
		{path: "lockstep.quanta", name: "ft_machine_lockstep_quanta_total", kind: counter, help: "Quanta that were given to the CPU modules."},
		{path: "lockstep.compared", name: "ft_machine_lockstep_compared_quanta_total", kind: counter, help: "Quanta in which two CPU modules were compared."},
		{path: "lockstep.epochs", name: "ft_machine_lockstep_epochs_total", kind: counter, help: "Epochs that ended with equal digests."},
		{path: "lockstep.outputs", name: "ft_machine_lockstep_outputs_total", kind: counter, help: "Outputs released to the devices."},
		{path: "lockstep.inputs", name: "ft_machine_lockstep_inputs_total", kind: counter, help: "Inputs given to the CPU modules."},
		{path: "lockstep.differences", name: "ft_machine_lockstep_differences_total", kind: counter, help: "Times that the CPU modules differed."},
		{path: "lockstep.repaired", name: "ft_machine_lockstep_repairs_total", kind: counter, help: "Differences after which both CPU modules went on."},
		{path: "lockstep.patrol_pages", name: "ft_machine_lockstep_patrol_pages_total", kind: counter, help: "Pages of idle memory that were compared."},
		{path: "lockstep.patrol_passes", name: "ft_machine_lockstep_patrol_passes_total", kind: counter, help: "Times that all of the memory was gone through."},
		{path: "lockstep.joins", name: "ft_machine_lockstep_joins_total", kind: counter, help: "Times that a CPU module was brought in beside the other."},
		{path: "lockstep.blackout_ms", name: "ft_machine_lockstep_last_blackout_seconds", kind: gauge, scale: milli, help: "How long the guest stood when a CPU module was last brought in."},
		{path: "lockstep.brownout_ms", name: "ft_machine_lockstep_last_brownout_seconds", kind: gauge, scale: milli, help: "How long memory was copied beside the running guest before that."},
		{path: "lockstep.copy_rounds", name: "ft_machine_lockstep_last_copy_rounds", kind: gauge, help: "In how many rounds memory was copied then."},
		{path: "lockstep.throttled_ms", name: "ft_machine_lockstep_last_throttled_seconds", kind: gauge, scale: milli, help: "How long the guest was slowed down for that."},
		{path: "side.translator.code_bytes", name: "ft_machine_translator_code_bytes", kind: gauge, help: "Machine code that a CPU module keeps."},
		{path: "side.translator.translations", name: "ft_machine_translator_blocks_total", kind: counter, help: "Blocks that a CPU module has translated."},
		{path: "side.translator.flushes", name: "ft_machine_translator_flushes_total", kind: counter, help: "Times that a CPU module dropped its machine code for want of room."},
		{path: "side.translator.native_steps", name: "ft_machine_translator_steps_total", kind: counter, help: "Instructions that a CPU module ran in machine code."},
		{path: "disk.reads", name: "ft_machine_disk_reads_total", kind: counter, help: "Reads of the guest's disk."},
		{path: "disk.writes", name: "ft_machine_disk_writes_total", kind: counter, help: "Writes of the guest's disk."},
		{path: "disk.flushes", name: "ft_machine_disk_flushes_total", kind: counter, help: "Flushes of the guest's disk."},
		{path: "disk.discards", name: "ft_machine_disk_discards_total", kind: counter, help: "Discards of the guest's disk."},
		{path: "disk.errors", name: "ft_machine_disk_errors_total", kind: counter, help: "Requests of the guest's disk that failed."},
		{path: "disk.read_bytes", name: "ft_machine_disk_read_bytes_total", kind: counter, help: "What the guest read from its disk."},
		{path: "disk.write_bytes", name: "ft_machine_disk_written_bytes_total", kind: counter, help: "What the guest wrote to its disk."},
		{path: "disk.in_flight", name: "ft_machine_disk_requests_in_flight", kind: gauge, help: "Requests of the guest's disk under way."},
		{path: "nic.up", name: "ft_machine_nic_up", kind: gauge, help: "1 when the guest's NIC is joined to the network."},
		{path: "nic.rx_packets", name: "ft_machine_nic_receive_packets_total", kind: counter, help: "Frames that the guest was given."},
		{path: "nic.tx_packets", name: "ft_machine_nic_transmit_packets_total", kind: counter, help: "Frames that the guest sent."},
		{path: "nic.rx_bytes", name: "ft_machine_nic_receive_bytes_total", kind: counter, help: "Bytes that the guest was given."},
		{path: "nic.tx_bytes", name: "ft_machine_nic_transmit_bytes_total", kind: counter, help: "Bytes that the guest sent."},
		{path: "nic.rx_dropped", name: "ft_machine_nic_receive_drops_total", kind: counter, help: "Frames for the guest that were dropped."},
		{path: "nic.tx_dropped", name: "ft_machine_nic_transmit_drops_total", kind: counter, help: "Frames of the guest that were dropped."},
		{path: "console.watchers", name: "ft_machine_console_watchers", kind: gauge, help: "Who looks on at the console."},
		{path: "console.bytes_out", name: "ft_machine_console_output_bytes_total", kind: counter, help: "What the guest wrote to its console."},
		{path: "console.bytes_in", name: "ft_machine_console_input_bytes_total", kind: counter, help: "What was typed on the console."},
	},
}

// machinePowers are the words for whether a machine is on (chipset).
var machinePowers = []string{"stopped", "starting", "running", "panicked", "powered-off", "failed"}

// What the bond's programs in the kernel count for each port, "port0_detoured", and what that
// is as a label.
var portCounters = []string{"detoured", "dropped_both_dead", "dropped_fault", "dropped_no_carrier", "dropped_own", "dropped_standby"}

func (m *exposition) driver(d DeviceStatus) {
	device := []string{"device", d.ID}
	for _, table := range [][]stat{statsOf[""], statsOf[d.Kind]} {
		for _, s := range table {
			rest, ofSides := strings.CutPrefix(s.path, "side.")
			if !ofSides {
				m.stat(s, d.Stats, s.path, device)
				continue
			}
			for _, x := range d.Sides {
				m.stat(s, d.Stats, ModuleOf(x.ID)+"."+rest, sideLabels(x.ID, d.ID))
			}
		}
	}
	switch d.Kind {
	case "nic":
		m.ports(d)
	case "machine":
		if power, ok := d.Stats["state"].(string); ok {
			m.state("ft_machine_power", "Whether the machine is on", machinePowers, power, device...)
		}
		m.links(d)
	}
}

// stat writes one number, if it is there.
func (m *exposition) stat(s stat, stats map[string]any, path string, labels []string) {
	v, ok := numberOf(lookUp(stats, path))
	if !ok {
		return
	}
	if s.scale != 0 {
		v *= s.scale
	}
	m.add(s.name, s.kind, s.help, v, append(labels[:len(labels):len(labels)], s.labels...)...)
}

func lookUp(stats map[string]any, path string) any {
	first, rest, more := strings.Cut(path, ".")
	if !more {
		return stats[first]
	}
	below, _ := stats[first].(map[string]any)
	return lookUp(below, rest)
}

// numberOf takes what JSON makes of a driver's answer, and what a driver in this process says.
func numberOf(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int:
		return float64(v), true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case bool:
		return number(v), true
	case string: // a time
		t, err := time.Parse(time.RFC3339, v)
		return float64(t.UnixMilli()) / 1000, err == nil
	}
	return 0, false
}

func (m *exposition) ports(d DeviceStatus) {
	for i, x := range d.Sides {
		l := sideLabels(x.ID, d.ID)
		if path, ok := lookUp(d.Stats, ModuleOf(x.ID)+".path").(string); ok {
			m.add("ft_nic_port_path_good", gauge, "1 when probes through the NIC are answered. There where paths are probed.", number(path == "good"), l...)
		}
		for _, what := range portCounters {
			if v, ok := numberOf(d.Stats["port"+string(rune('0'+i))+"_"+what]); ok {
				m.add("ft_nic_port_packets_total", counter, "Packets that the programs in the kernel led elsewhere or dropped, by why.", v, append(l, "what", what)...)
			}
		}
	}
}

// linkNames are the links of the crossbar.
var linkNames = []string{"cpu0-pci0", "cpu0-pci1", "cpu1-pci0", "cpu1-pci1"}

func (m *exposition) links(d DeviceStatus) {
	for _, name := range linkNames {
		cpu, pci, _ := strings.Cut(name, "-")
		l := []string{"device", d.ID, "link", name, "cpu", cpu, "pci", pci}
		if state, ok := lookUp(d.Stats, "links."+name+".state").(string); ok {
			m.add("ft_machine_link_up", gauge, "1 when the link of the crossbar is on.", number(state == "on"), l...)
		}
		m.stat(stat{name: "ft_machine_link_passed_total", kind: counter, help: "Outputs that the link of the crossbar let through."}, d.Stats, "links."+name+".passed", l)
		m.stat(stat{name: "ft_machine_link_refused_total", kind: counter, help: "Outputs of a CPU module that was cut off, refused at the link."}, d.Stats, "links."+name+".refused", l)
	}
}
