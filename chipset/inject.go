package chipset

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"ft/chipset/cpu"
	"ft/chipset/lockstep"
	"ft/drivers"
)

// Faults are the names of the faults that a CPU module of a machine can be given.
var Faults = append(append([]string{"kill", "stop"}, cpu.Faults()...), "clear")

// ParseFault reads a fault and its arguments, as in `ftctl inject cpu1/guest FAULT ARGS`:
//
//	kill | stop | slow | flip-pc [BIT] | flip-register [REG [BIT]] | flip-csr [NAME [BIT]]
//	flip-memory [ADDRESS [BIT]] | stuck [REG [BIT]] | wrong-result [CLASS] | lose-store | double-store | bad-code | clear
//
// each with --at-step N, or at once, and --seed N for what is not said.
func ParseFault(f drivers.Fault) (lockstep.Injection, error) {
	inj := lockstep.Injection{Name: f.Name}
	if !slices.Contains(Faults, f.Name) {
		return inj, fmt.Errorf("there is no fault %q for a CPU module; there are %s", f.Name, strings.Join(Faults, ", "))
	}
	args, err := faultFlags(f.Args, &inj)
	if err != nil {
		return inj, err
	}
	most := map[string]int{"flip-register": 2, "flip-memory": 2, "flip-pc": 1, "flip-csr": 2, "stuck": 2, "wrong-result": 1}[f.Name]
	if len(args) > most {
		return inj, fmt.Errorf("%s takes %d arguments at most, not %d", f.Name, most, len(args))
	}
	bit := func(arg string) error {
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 || n > 63 {
			return fmt.Errorf("%q is no bit: 0 to 63", arg)
		}
		inj.Bit = &n
		return nil
	}
	for i, arg := range args {
		switch {
		case i == 1 || f.Name == "flip-pc":
			err = bit(arg)
		case f.Name == "flip-register" || f.Name == "stuck":
			err = faultRegister(arg, &inj)
		case f.Name == "flip-csr":
			inj.CSR = arg
		case f.Name == "wrong-result":
			inj.Class = arg
		case f.Name == "flip-memory":
			at, perr := strconv.ParseUint(arg, 0, 64)
			if perr != nil {
				err = fmt.Errorf("%q is no address", arg)
			}
			inj.Address = &at
		}
		if err != nil {
			return inj, err
		}
	}
	return inj, nil
}

// faultFlags takes --at-step and --seed out of the arguments.
func faultFlags(args []string, inj *lockstep.Injection) (rest []string, err error) {
	for i := 0; i < len(args); i++ {
		name, value, has := strings.Cut(args[i], "=")
		to := map[string]*uint64{"--at-step": &inj.Step, "--seed": &inj.Seed}[name]
		if to == nil {
			if strings.HasPrefix(args[i], "-") {
				return nil, fmt.Errorf("there is no option %q; there are --at-step N and --seed N", args[i])
			}
			rest = append(rest, args[i])
			continue
		}
		if !has {
			if i++; i == len(args) {
				return nil, fmt.Errorf("%s wants a number", name)
			}
			value = args[i]
		}
		if *to, err = strconv.ParseUint(value, 0, 64); err != nil {
			return nil, fmt.Errorf("%s wants a number, not %q", name, value)
		}
	}
	return rest, nil
}

// faultRegister reads x14, f3, or a number: 0 to 31 is x, 32 to 63 is f.
func faultRegister(arg string, inj *lockstep.Injection) error {
	base, digits := 0, arg
	if rest, ok := strings.CutPrefix(arg, "x"); ok {
		digits = rest
	} else if rest, ok := strings.CutPrefix(arg, "f"); ok {
		base, digits = 32, rest
	}
	n, err := strconv.Atoi(digits)
	if err != nil || n < 0 || n+base > 63 || (digits != arg && n > 31) {
		return fmt.Errorf("%q is no register: x1 to x31, f0 to f31", arg)
	}
	n += base
	inj.Register = &n
	return nil
}

// Inject puts a fault into a CPU module.
func (d *driver) Inject(_ context.Context, s drivers.Side, f drivers.Fault) error {
	if !d.cfg.Drills {
		return drivers.Refuse(drivers.RuleNoDrills, "faults are not allowed on this box: drills = true in [system] allows them")
	}
	if !s.Valid() || d.sides[s].state == drivers.Empty {
		return drivers.Refuse(drivers.RuleUnfit, "%s: a fault goes into one of its CPU modules, cpu0/%s or cpu1/%s", f.Name, d.cfg.Name, d.cfg.Name)
	}
	inj, err := ParseFault(f)
	if err == nil && inj.Name != "kill" && inj.Name != "stop" && inj.Name != "clear" {
		err = cpu.Validate(inj, uint64(d.opt.MemoryBytes))
	}
	if err != nil {
		return drivers.Refuse(drivers.RuleUnfit, "%s: %v", d.sideName(s), err)
	}
	if inj.Name == "clear" {
		d.slots.Clear(lockstep.Side(s))
	}
	d.mu.Lock()
	b := d.boot
	d.mu.Unlock()
	switch {
	case b == nil && inj.Name == "clear":
		return nil
	case b == nil:
		return drivers.Refuse(drivers.RuleState, "%s is not on", d.cfg.Name)
	}
	if err := b.x.Inject(lockstep.Side(s), inj); err != nil {
		return drivers.Refuse(drivers.RuleState, "%s: %v", d.sideName(s), err)
	}
	return nil
}
