// verdict.js: how the box is, why, and what to do; the lamps and marks that all of the page
// uses.

// A mark is a state's shape, drawn in the colour of the text around it.
const marks = {
  good: () => svg("circle", { cx: 8, cy: 8, r: 6, fill: "currentColor" }),
  alone: () => [
    svg("circle", { cx: 8, cy: 8, r: 5.2, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    svg("path", { d: "M8 2.8a5.2 5.2 0 0 0 0 10.4z", fill: "currentColor" }),
  ],
  work: () => [
    svg("circle", { cx: 8, cy: 8, r: 5.4, fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-dasharray": "22 12", "stroke-linecap": "round" }),
    svg("circle", { cx: 8, cy: 8, r: 1.6, fill: "currentColor" }),
  ],
  fault: () => [
    svg("rect", { x: 2, y: 2, width: 12, height: 12, rx: 2, fill: "currentColor" }),
    svg("path.cut", { d: "M5.2 5.2l5.6 5.6M10.8 5.2l-5.6 5.6", fill: "none", "stroke-width": 1.8, "stroke-linecap": "round" }),
  ],
  out: () => svg("circle", { cx: 8, cy: 8, r: 5.4, fill: "none", stroke: "currentColor", "stroke-width": 1.4, "stroke-dasharray": "2.4 2.2" }),
};

function mark(state) {
  const look = lookOf(state);
  return svg(`svg.mark.${look}`, { viewBox: "0 0 16 16", "aria-hidden": "true", focusable: "false" }, marks[look]());
}

// A lamp says whether a part may be pulled: a disc with a tick, a triangle, a stop sign.
const lamps = {
  green: () => [
    svg("circle", { cx: 12, cy: 12, r: 10, fill: "currentColor" }),
    svg("path.cut", { d: "M7.4 12.4l3.1 3.1 6.1-6.6", fill: "none", "stroke-width": 2.2, "stroke-linecap": "round", "stroke-linejoin": "round" }),
  ],
  yellow: () => [
    svg("path", { d: "M12 2.6L22.4 21H1.6z", fill: "currentColor", stroke: "currentColor", "stroke-width": 1.6, "stroke-linejoin": "round" }),
    svg("path.cut", { d: "M12 9v5.4M12 17.6v.2", fill: "none", "stroke-width": 2.2, "stroke-linecap": "round" }),
  ],
  red: () => [
    svg("path", { d: "M8 2h8l6 6v8l-6 6H8l-6-6V8z", fill: "currentColor" }),
    svg("path.cut", { d: "M7 12h10", fill: "none", "stroke-width": 3, "stroke-linecap": "round" }),
  ],
};

function lamp(pull) {
  return el(`span.pull.${pull.lamp}`, null,
    svg("svg.lamp", { viewBox: "0 0 24 24", "aria-hidden": "true", focusable: "false" }, lamps[pull.lamp]()),
    el("span", null, pull.words));
}

function drawVerdict(doc, now) {
  const s = doc.system;
  const look = lookOf(s.state);
  const quiet = s.state === "duplex" && s.action === "none";
  const since = date(s.since);
  lay(byId("verdict"),
    el(`div.verdict.${look}`, { "data-key": "verdict", "data-state": s.state },
      el("div.head", null,
        mark(s.state),
        el("h1", null, el("span.name", null, s.name), " ", el("span.state", null, s.state)),
        el("p.since", null, since && `for ${duration((now - since) / 1000)}`)),
      el("div.words", null,
        el("p.cause", null, !quiet && el("b", null, "Cause"), " ", el("span", null, s.verdict)),
        !quiet && el("p.action", null, el("b", null, "Do"), " ", el("span", null, s.action)))));
  document.title = `${s.state.toUpperCase()} · ${s.name}`;
  drawIcon(look);
  speak(`${s.name} is ${s.state}. ${quiet ? "" : `Cause: ${s.verdict}. To do: ${s.action}.`}`);
}

let spoken = "";

function speak(sentence) {
  if (saidOnce(sentence) === spoken) return;
  spoken = saidOnce(sentence);
  byId("spoken").textContent = plain(sentence);
}

// The icon in the browser's tab is the box's lamp. These are the lamps' colours (base.css).
const iconColours = { good: "#2f9e44", alone: "#e8a300", work: "#e8a300", fault: "#d6303a", out: "#7b858f", lost: "#7b858f" };
const iconShapes = {
  good: '<circle cx="8" cy="8" r="7"/>', alone: '<path d="M8 1l7.5 14H.5z"/>', work: '<path d="M8 1l7.5 14H.5z"/>',
  fault: '<path d="M5 1h6l4 4v6l-4 4H5l-4-4V5z"/>', out: '<circle cx="8" cy="8" r="7"/>', lost: '<path d="M3 3l10 10M13 3L3 13" stroke="#7b858f" stroke-width="3"/>',
};
let icon = "";

function drawIcon(look) {
  if (look === icon) return;
  icon = look;
  document.querySelector("link[rel=icon]").href = "data:image/svg+xml," + encodeURIComponent(
    `<svg xmlns="${svgNamespace}" viewBox="0 0 16 16" fill="${iconColours[look]}">${iconShapes[look]}</svg>`);
}
