package backplane

import (
	"ft/chipset/engine"
	"ft/chipset/port"
	"ft/chipset/rv64/translate"
)

// A module says in its port what executes its hart, and what that has done (port.Gauges).

// Words of the gauges.
const (
	gaugeEngine = iota // one of engineCodes
	gaugeBlocks
	gaugeCodeBytes
	gaugeTranslations
	gaugeOps
	gaugeFlushes
	gaugeTranslateNS
	gaugeNativeSteps
	gaugeEntries
)

// engineCodes are engines by their number in a port; 0 is a module that says nothing.
var engineCodes = [...]engine.Kind{1: engine.Interpreter, 2: engine.Translator}

// gauges are what an engine has to say.
func gauges(e *engine.Engine) (g port.Gauges) {
	for code, kind := range engineCodes {
		if kind == e.Kind() {
			g[gaugeEngine] = uint64(code)
		}
	}
	s := e.Stats()
	g[gaugeBlocks], g[gaugeCodeBytes], g[gaugeTranslations], g[gaugeOps] = s.Blocks, s.CodeBytes, s.Translations, s.Ops
	g[gaugeFlushes], g[gaugeTranslateNS], g[gaugeNativeSteps], g[gaugeEntries] = s.Flushes, s.TranslateNS, s.NativeSteps, s.Entries
	return g
}

// gaugesOf reads them.
func gaugesOf(g port.Gauges) (kind engine.Kind, s translate.Stats) {
	if code := g[gaugeEngine]; code < uint64(len(engineCodes)) {
		kind = engineCodes[code]
	}
	return kind, translate.Stats{
		Blocks: g[gaugeBlocks], CodeBytes: g[gaugeCodeBytes], Translations: g[gaugeTranslations], Ops: g[gaugeOps],
		Flushes: g[gaugeFlushes], TranslateNS: g[gaugeTranslateNS], NativeSteps: g[gaugeNativeSteps], Entries: g[gaugeEntries],
	}
}
