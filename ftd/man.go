package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"ft/ftd/config"
)

// runMan writes manual pages in roff, for those who package ft: ftd(8) from the usage text,
// ft.toml(5) from the example that is installed as /etc/ft/ft.toml.
func runMan(args []string, out, errs io.Writer) int {
	if len(args) != 1 || manuals[args[0]] == nil {
		return misused(errs, errors.New("man writes one page: ftd or ft.toml"))
	}
	fmt.Fprint(out, manuals[args[0]]())
	return exitDone
}

var manuals = map[string]func() string{"ftd": manualFtd, "ft.toml": manualConfig}

func manualFtd() string {
	name, rest, _ := strings.Cut(usage, "\n")
	return page("FTD", 8, strings.Replace(name, ":", " -", 1), []string{
		"SYNOPSIS", asIs(rest),
		"DESCRIPTION", roffed(`ftd is the control daemon of a box of duplex devices, and all of its other processes. Under
systemd there are two services. ft-keeper.service is the parent of the drivers and carries all faces. ftd.service
decides, and is in no data path: it may be stopped, killed and upgraded while the faces are in use.`),
		"SIGNALS", roffed(`The control daemon reads its configuration again at SIGHUP and takes in what is new.
To the keeper SIGTERM is the clean stop of the box, which waits while faces are in use, a second one does not wait,
and SIGUSR2 ends it alone: the next keeper finds everything again.`),
		"EXIT STATUS", roffed(`0 done, 1 failed, 2 usage. The control daemon ends with 78 where ft.toml has to be mended before a
start makes sense: systemd does not try that again.`),
		"FILES", asIs(`  /etc/ft/ft.toml     configuration, see ft.toml(5)
  /run/ft/ftd.sock    where ftctl(8) reaches ftd
  /run/ft/refused     why ftd has not started, where its start was refused
  /run/ft/log         logs of the drivers; what ftd and the keeper do is in the journal
  /var/lib/ft         what must not be forgotten: what an admin took out, histories of faults,
                      the event log, witnesses of disks. Not on a face of the box itself.
`),
		"JOURNAL", roffed(`Every change of a part is an entry with FT_COMPONENT=, FT_FROM=, FT_TO=, FT_REASON= and
FT_SEQ=: journalctl FT_COMPONENT=pci1/disk0.`),
		"SEE ALSO", roffed("ftctl(8), ft.toml(5)"),
	})
}

func manualConfig() string {
	return page("FT.TOML", 5, "ft.toml - configuration of a box of duplex devices", []string{
		"DESCRIPTION", roffed(`/etc/ft/ft.toml is read by ftd(8) when it starts and at SIGHUP (systemctl reload ftd), which
takes in what is new. A mistake is refused with its line and the way out; ftd --check-config looks for them. With nothing
configured ftd runs and waits. This is the file as it is installed, with all that there is at its default:`),
		"SETTINGS", asIs(config.Example),
		"SEE ALSO", roffed("ftd(8), ftctl(8)"),
	})
}

// page joins sections, title and contents by turns.
func page(title string, section int, name string, sections []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s %d \"\" ft \"ft\"\n.SH NAME\n%s\n", title, section, roffed(name))
	for i := 0; i < len(sections); i += 2 {
		fmt.Fprintf(&b, ".SH %s\n%s\n", sections[i], strings.TrimRight(sections[i+1], "\n"))
	}
	return b.String()
}

// asIs is text that keeps its lines.
func asIs(text string) string { return ".nf\n" + roffed(strings.Trim(text, "\n")) + "\n.fi" }

// roffed is text that roff takes for nothing else (man(7)).
func roffed(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	return strings.NewReplacer("\n.", "\n\\&.", "\n'", "\n\\&'").Replace(text)
}
