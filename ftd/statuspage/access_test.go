package statuspage

import (
	"strings"
	"testing"
)

// This file tries the page as those have it who do not see its colours, or nothing of it, or
// have no mouse.

// lowContrast lists texts whose contrast to what lies behind them is below WCAG 2.2's 4.5 to 1,
// 3 to 1 for large ones (1.4.3). Where there is a gradient, each of its colours counts.
const lowContrast = `(() => {
	const parse = (c) => { const m = c.match(/[\d.]+/g).map(Number); return { r: m[0], g: m[1], b: m[2], a: m[3] ?? 1 }; };
	const over = (top, under) => { const f = (k) => top[k] * top.a + under[k] * (1 - top.a); return { r: f("r"), g: f("g"), b: f("b"), a: 1 }; };
	const luminance = (c) => { const f = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; return 0.2126 * f(c.r) + 0.7152 * f(c.g) + 0.0722 * f(c.b); };
	const contrast = (a, b) => { const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
	const behind = (e) => {
		if (!e) return [parse(getComputedStyle(document.documentElement).backgroundColor)];
		const s = getComputedStyle(e);
		const gradient = (s.backgroundImage.match(/rgba?\([^)]*\)/g) ?? []).map(parse);
		if (gradient.length) return gradient;
		const own = parse(s.backgroundColor);
		return own.a === 1 ? [own] : behind(e.parentElement).map((c) => over(own, c));
	};
	const bad = [];
	const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	let seen = 0;
	while (texts.nextNode()) {
		const e = texts.currentNode.parentElement;
		if (!texts.currentNode.data.trim() || !e.checkVisibility() || e.closest(".hidden, script, style, .skip")) continue;
		seen++;
		const s = getComputedStyle(e), size = parseFloat(s.fontSize);
		const least = size >= 24 || (size >= 18.66 && s.fontWeight >= 700) ? 3 : 4.5;
		for (const b of behind(e)) {
			const c = contrast(over(parse(s.color), b), b);
			if (c < least) bad.push(c.toFixed(2) + " " + e.className + ": " + texts.currentNode.data.slice(0, 40));
		}
	}
	return seen < 50 ? ["only " + seen + " texts were seen"] : bad;
})()`

// unclear lists what a screen reader would be at a loss with.
const unclear = `(() => {
	const bad = [];
	const name = (e) => e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") ?? "").split(" ").map((id) => document.getElementById(id)?.textContent ?? "").join("") || e.labels?.[0]?.textContent || e.textContent;
	for (const e of document.querySelectorAll("a[href], button, input, summary, progress, article, section, header#top")) {
		if (!name(e)?.trim()) bad.push("no name: " + e.outerHTML.slice(0, 100));
	}
	for (const e of document.querySelectorAll("svg")) {
		if (e.getAttribute("aria-hidden") !== "true") bad.push("a picture that is read out: " + e.outerHTML.slice(0, 100));
	}
	const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
	for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) bad.push("twice: #" + id);
	for (const tag of ["main", "h1", "footer", "[role=status][aria-live=polite]", "[role=alert]"]) {
		if (document.querySelectorAll(tag).length !== 1) bad.push(tag + " is there " + document.querySelectorAll(tag).length + " times");
	}
	const levels = [...document.querySelectorAll("h1, h2, h3, h4")].map((h) => Number(h.tagName[1]));
	levels.forEach((l, i) => { if (i > 0 && l > levels[i - 1] + 1) bad.push("a heading is skipped before h" + l); });
	if (document.documentElement.lang !== "en") bad.push("no language");
	for (const e of document.querySelectorAll(".mark, .lamp")) {
		if (!e.parentElement.textContent.trim()) bad.push("a mark without a word: " + e.parentElement.outerHTML.slice(0, 100));
	}
	return bad;
})()`

func TestThePageCanBeReadByAll(t *testing.T) {
	s := show(t, busy(t))
	host, stop := box(t, s, "")
	tb := open(t, "http://"+host+"/", look{width: 1300, height: 900})
	tb.until(drawn)
	check := func(what string) {
		t.Helper()
		for name, script := range map[string]string{"contrast": lowContrast, "clear": unclear} {
			var bad []string
			if tb.eval(&bad, script); len(bad) > 0 {
				t.Errorf("%s, %s: %s", what, name, strings.Join(bad, "\n"))
			}
		}
	}
	tb.eval(nil, `document.querySelectorAll("details").forEach((d) => { d.open = true }); 0`)
	looks := map[string]look{"light": {width: 1300, height: 900}, "dark": {width: 1300, height: 900, dark: true}, "print": {width: 800, height: 900, print: true}, "phone, dark": {width: 360, height: 740, dark: true}}
	for name, as := range looks {
		tb.as(as)
		check(name)
	}
	stop()
	tb.until(`document.body.hasAttribute("data-lost")`)
	for _, name := range []string{"light", "dark"} {
		tb.as(looks[name])
		check(name + ", ftd gone")
	}
	// The three lamps differ in shape, not only in colour.
	var shapes int
	tb.eval(&shapes, `new Set([...document.querySelectorAll(".pull .lamp")].map((l) => l.innerHTML)).size`)
	if shapes != 3 {
		t.Errorf("%d shapes of lamps", shapes)
	}
	tb.do("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-reduced-motion", "value": "reduce"}}})
	var moving []string
	tb.eval(&moving, `[...document.querySelectorAll("*")].filter((e) => { const s = getComputedStyle(e); return s.animationName !== "none" || parseFloat(s.transitionDuration) > 0; }).map((e) => e.outerHTML.slice(0, 100))`)
	if len(moving) > 0 {
		t.Errorf("it moves: %s", moving)
	}
	tb.noTrouble(host)
}

// Tab goes to every control in the order of the page, each shows that it has the focus, and
// Enter opens what is under it.
func TestTheKeyboardReachesAll(t *testing.T) {
	s := show(t, busy(t))
	host, _ := box(t, s, "")
	tb := open(t, "http://"+host+"/", look{width: 1300, height: 900})
	tb.until(drawn)
	var want []string
	tb.eval(&want, `[...document.querySelectorAll("a[href], button, input, summary")].filter((e) => e.checkVisibility()).map((e) => e.outerHTML.slice(0, 80))`)
	tb.eval(nil, `window.order = [...document.querySelectorAll("a[href], button, input, summary")].filter((e) => e.checkVisibility()); 0`)
	if len(want) < 15 {
		t.Fatalf("%d controls: %s", len(want), want)
	}
	for i := range want {
		tb.key("Tab", 9, "")
		var at struct {
			Nth     int
			Outline string
			What    string
		}
		tb.eval(&at, `(() => { const e = document.activeElement, s = getComputedStyle(e); return { nth: window.order.indexOf(e), outline: s.outlineStyle + " " + s.outlineWidth, what: e.outerHTML.slice(0, 80) }; })()`)
		if at.Nth != i || at.Outline != "solid 2px" {
			t.Fatalf("Tab %d came to control %d (%s) with the outline %q, want %s", i+1, at.Nth, at.What, at.Outline, want[i])
		}
		if strings.HasPrefix(want[i], "<summary") {
			tb.key("Enter", 13, "\r")
			var open bool
			if tb.eval(&open, `document.activeElement.parentElement.open`); !open {
				t.Errorf("Enter does not open %s", want[i])
			}
		}
	}
	tb.noTrouble(host)
}
