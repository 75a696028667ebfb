package chipset

import "ft/drivers"

// copyRates are how many bytes a second are copied to a CPU module that comes in while the
// guest runs, by priority; 0 is no limit.
var copyRates = map[string]int64{"low": 100e6, "normal": 1e9, "high": 0}

// priorityCommand sets the priority of bringing CPU modules in, also of one that is under way.
func (d *driver) priorityCommand(args map[string]string) (any, error) {
	rate, ok := copyRates[args["level"]]
	if !ok {
		return nil, drivers.Refuse(drivers.RuleState, "%q is no priority: there are low, normal and high", args["level"])
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.copyRate = rate
	if d.boot != nil {
		d.boot.x.SetCopyRate(rate)
	}
	return map[string]any{"name": d.cfg.Name, "level": args["level"], "rate_bytes": rate}, nil
}
