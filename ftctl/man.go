package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// manCmd writes ftctl(8), one page for all verbs, from the verbs themselves. It is for
// those who package ftctl, and not shown.
func (a *app) manCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "man",
		Short:  "Write the manual page, in roff",
		Hidden: true,
		Args:   args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(a.out, manual(c.Root()))
			return err
		},
	}
}

func manual(root *cobra.Command) string {
	var m roff
	m.line(`.TH FTCTL 8 "" ft "ft"`)
	m.section("NAME")
	m.line("ftctl \\- " + escape(strings.ToLower(root.Short[:1])+root.Short[1:]))
	m.section("SYNOPSIS")
	m.line(".B ftctl\n[\\fB\\-\\-socket\\fR PATH] [\\fB\\-\\-json\\fR] VERB [ARGUMENTS]")
	m.section("DESCRIPTION")
	m.text(root.Long)
	m.section("VERBS")
	for _, c := range root.Commands() {
		m.verb(c)
	}
	m.section("OPTIONS")
	m.flags(root.PersistentFlags())
	m.section("FILES")
	m.line(".TP\n.I /run/ft/ftd.sock\nwhere ftd listens. Root and the members of the groups \\fBft\\fR (read) and \\fBftadm\\fR (read and change) are answered.")
	m.section("SEE ALSO")
	m.line("\\fBftd\\fR(8), \\fBft.toml\\fR(5)")
	return m.b.String()
}

// roff is a manual page in the making (man(7)).
type roff struct{ b strings.Builder }

func (m *roff) line(s string)        { m.b.WriteString(s + "\n") }
func (m *roff) section(title string) { m.line(".SH " + title) }

// text writes prose; a line that is indented stands as it is, as in a terminal.
func (m *roff) text(s string) {
	asIs := false
	for l := range strings.Lines(strings.TrimSpace(s)) {
		l = strings.TrimRight(l, "\n")
		if indented := strings.HasPrefix(l, "  "); indented != asIs {
			asIs = indented
			m.line(map[bool]string{true: ".nf", false: ".fi"}[asIs])
		}
		if l == "" {
			m.line(".PP")
			continue
		}
		m.line(escape(l))
	}
	if asIs {
		m.line(".fi")
	}
}

// verb describes a verb, and those below it.
func (m *roff) verb(c *cobra.Command) {
	if c.Hidden || c.Name() == "help" {
		return
	}
	m.line(".SS " + escape(strings.TrimPrefix(c.UseLine(), "ftctl ")))
	if c.Long != "" {
		m.text(c.Long)
	} else {
		m.text(c.Short + ".")
	}
	if c.HasLocalFlags() {
		m.flags(c.LocalNonPersistentFlags())
	}
	if c.Example != "" {
		m.line(".PP\n.nf")
		m.line(escape(c.Example))
		m.line(".fi")
	}
	if c.Name() == "completion" {
		return // cobra's own, which says all that its verbs do
	}
	for _, sub := range c.Commands() {
		m.verb(sub)
	}
}

func (m *roff) flags(set *pflag.FlagSet) {
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		what, usage := pflag.UnquoteUsage(f)
		m.line(".TP\n\\fB\\-\\-" + escape(f.Name) + "\\fR " + escape(what))
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" {
			usage += " (" + f.DefValue + ")"
		}
		m.line(escape(usage))
	})
}

// escape makes text that roff takes for nothing else: no escapes, and no requests at the
// beginning of a line.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
