package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ft/ftd/api"
)

// Exit codes. They are part of the product: scripts rely on them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3 // by a rule; the sentence says which
	exitUnreachable = 4
)

// app is one run of ftctl.
type app struct {
	in       []string
	out, err io.Writer
	stdin    io.Reader
	keys     *os.File // stdin where that is a terminal, nil elsewhere
	terminal *os.File // where live redraw is possible, nil elsewhere
	colour   bool

	// Global flags.
	socket string
	json   bool

	client *api.Client
	// reached is set once ftd has answered: after that its absence is waited out.
	reached bool
	// started is set once a verb runs: errors before that are errors of usage.
	started bool
}

// exit ends a verb with a code of its own and nothing more to say.
type exit struct{ code int }

func (e exit) Error() string { return fmt.Sprintf("exit %d", e.code) }

// usage is a mistake in the command line that only a verb can see.
type usage struct{ sentence string }

func (e usage) Error() string { return e.sentence }

func usagef(format string, args ...any) error { return usage{fmt.Sprintf(format, args...)} }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "ftctl",
		Short: "Look at and change a fault-tolerant box",
		Long: `ftctl shows and changes the state of a box run by ftd: its modules (cpu0, pci1), its
duplex devices (disk0, net0), and their sides (pci1/disk0).

Exit codes: 0 done, 1 failed, 2 usage, 3 refused by a rule, 4 ftd cannot be reached.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs, // so that RunE answers a misspelt verb
		RunE:          noVerb,
		PersistentPreRun: func(*cobra.Command, []string) {
			a.client = api.NewClient(a.socket)
		},
		SuggestionsMinimumDistance: 2,
	}
	root.PersistentFlags().StringVar(&a.socket, "socket", api.DefaultSocket, "where ftd listens")
	root.PersistentFlags().BoolVar(&a.json, "json", false, "write JSON, for programs")
	root.AddCommand(a.statusCmd(), a.lsCmd(), a.showCmd(), a.bringupCmd(), a.bringdownCmd(), a.switchCmd(),
		a.waitCmd(), a.eventsCmd(), a.machineCmd(), a.consoleCmd(), a.dumpCmd(), a.priorityCmd(), a.readsCmd(), a.scrubCmd(), a.replaceCmd(), a.resolveCmd(), a.mtbfCmd(), a.policyCmd(), a.reloadCmd(), a.injectCmd(), a.drillCmd(), a.supportBundleCmd(), a.versionCmd())
	root.AddCommand(a.manCmd())
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true // Use names them
	}
	root.SetFlagErrorFunc(flagError)
	strictHelp(root)
	root.SetArgs(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	return root
}

// noVerb answers ftctl without a verb, or with one that does not exist.
func noVerb(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		c.SetOut(c.ErrOrStderr())
		_ = c.Help()
		return usagef("a verb is missing: try `ftctl status`")
	}
	hint := "see `ftctl --help` for the verbs"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return usagef("there is no verb %q; %s", args[0], hint)
}

// flagError is about a flag that a verb does not know, or a number that looks like one.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) {
		if word := unknown.GetSpecifiedShortnames(); word != "" && word[0] >= '0' && word[0] <= '9' {
			return usagef("-%s: no number here is below 0; see `%s --help`", word, c.CommandPath())
		}
	}
	return usagef("%v; see `%s --help`", err, c.CommandPath())
}

// strictHelp has cobra's own verbs refuse what they do not know, as all others do.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.DisableFlagsInUseLine = true
			c.Run, c.RunE = nil, func(_ *cobra.Command, words []string) error {
				about, rest, err := root.Find(words)
				if err != nil || len(rest) > 0 {
					return usagef("there is no verb %q to help with; see `ftctl --help` for the verbs", strings.Join(words, " "))
				}
				return about.Help()
			}
		case "completion":
			c.Args = cobra.ArbitraryArgs // so that RunE answers a shell that is not known
			c.RunE = func(c *cobra.Command, words []string) error {
				var shells []string
				for _, shell := range c.Commands() {
					shells = append(shells, shell.Name())
				}
				if len(words) == 0 {
					return usagef("completion needs a shell: %s", strings.Join(shells, ", "))
				}
				return usagef("there is no completion for %q, but for %s", words[0], strings.Join(shells, ", "))
			}
		}
	}
}

// args checks how many arguments a verb got, and says which are missing.
func args(low, high int) cobra.PositionalArgs {
	return func(c *cobra.Command, got []string) error {
		switch {
		case slices.Contains(got, ""):
			return usagef("an argument is empty: %s; see `%s --help`", c.UseLine(), c.CommandPath())
		case len(got) < low:
			return usagef("something is missing: %s; see `%s --help`", c.UseLine(), c.CommandPath())
		case high >= 0 && len(got) > high:
			return usagef("%q is too much: %s; see `%s --help`", got[high], c.UseLine(), c.CommandPath())
		}
		return nil
	}
}

// verb is what each verb's RunE is made of.
func (a *app) verb(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		a.started = true
		return f(c.Context(), args)
	}
}

// run parses, runs, and returns the exit code.
func (a *app) run(ctx context.Context) int {
	err := a.root().ExecuteContext(ctx)
	if a.client != nil {
		a.client.Close()
	}
	code := a.exitCode(err)
	var e exit
	if err != nil && !errors.As(err, &e) {
		a.complain(err, code)
	}
	return code
}

func (a *app) exitCode(err error) int {
	var (
		e    exit
		u    usage
		wire *api.Error
	)
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &u), !a.started:
		return exitUsage
	case errors.As(err, &wire) && wire.Refused:
		return exitRefused
	case errors.As(err, &wire) && wire.Code == api.CodeUnreachable:
		return exitUnreachable
	case errors.As(err, &wire) && wire.Code == api.CodeBadRequest:
		return exitUsage
	}
	return exitFailed
}

// complain writes an error for a person, or with --json for a program.
func (a *app) complain(err error, code int) {
	if errors.Is(err, context.Canceled) {
		return // interrupted: the person knows
	}
	if !a.json {
		fmt.Fprintf(a.err, "ftctl: %s\n", visible(err.Error()))
		return
	}
	e := struct {
		Code     string `json:"code"`
		Sentence string `json:"sentence"`
		Exit     int    `json:"exit"`
	}{Code: "failed", Sentence: err.Error(), Exit: code}
	var wire *api.Error
	if errors.As(err, &wire) {
		e.Code = wire.Code
	} else if code == exitUsage {
		e.Code = "usage"
	}
	_ = json.NewEncoder(a.err).Encode(e)
}

// writeJSON writes a value on one line.
func (a *app) writeJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// say writes a line.
func (a *app) say(format string, args ...any) error {
	return a.write(fmt.Sprintf(format, args...) + "\n")
}
