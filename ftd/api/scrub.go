package api

// checkScrub holds what a Backend may rely on: an action, and a side only where one counts.
func (c Change) checkScrub() error {
	switch c.Action {
	case ScrubStart, ScrubPause, ScrubResume, ScrubCancel:
	default:
		return badRequest("scrub needs an action, start, pause, resume or cancel: {\"action\": \"start\"}")
	}
	switch {
	case c.Action != ScrubStart && (c.Repair || c.From != ""):
		return badRequest("only a scrub that is started can be told to repair: cancel the one under way, then start one with {\"repair\": true}")
	case c.From != "" && !c.Repair:
		return badRequest("the side to repair from is named, and nothing is to be repaired: {\"repair\": true, \"from\": %q}", c.From)
	}
	return nil
}
