// box.js: the box as its modules with their parts, the crossbar between them, and the faces.

function drawBox(doc, now) {
  byId("box").hidden = false;
  const modules = doc.modules ?? [];
  const row = (kind) => modules.filter((m) => m.id.startsWith(kind));
  const links = linksOf(doc);
  lay(byId("drawing"),
    drawFaces(doc),
    el("div.chassis", { "data-key": "chassis" },
      modules.length === 0 && el("p.none", null, "No device is configured; see /etc/ft/ft.toml."),
      row("cpu").length > 0 && el("div.modules", { "data-key": "cpu" }, row("cpu").map((m) => drawModule(doc, m, now))),
      links.length > 0 && drawCrossbar(links),
      row("pci").length > 0 && el("div.modules", { "data-key": "pci" }, row("pci").map((m) => drawModule(doc, m, now)))));
}

// drawFaces is what applications see.
function drawFaces(doc) {
  return el("ul.faces", { "data-key": "faces", "aria-label": "Faces: what applications see" }, (doc.devices ?? []).map((d) =>
    el(`li.face.${lookOf(d.state)}`, { "data-key": d.id, title: d.verdict || null },
      mark(d.state), el("b", null, d.id), " ", el("span.state", null, d.state), " ",
      d.state !== "down" && el("code", null, faceOf(d)),
      d.driver && d.driver !== "connected" && d.driver !== "none" && el("em", null, ` driver process: ${d.driver}`))));
}

function drawModule(doc, m, now) {
  const parts = partsOf(doc, m.id);
  const pull = pullOf(m, parts.map((p) => p.side));
  const carries = parts.some((p) => roleOf(p.device, p.side) === "carries");
  const name = `module-${m.id}`;
  return el("article.module", { "data-key": m.id, "data-look": lookOf(m.state), "data-out": !carries, "aria-labelledby": name },
    el("header", null,
      el("h3", { id: name }, m.id),
      el("span.state", null, mark(m.state), " ", el("span", null, m.state)),
      lamp(pull)),
    !m.safe_to_pull && m.pull_note && el("p.why", null, m.pull_note),
    el("ul.parts", null, parts.map((p) => drawPart(p.device, p.side, now))));
}

// drawPart is a line that opens: what it is and how, and below all that is known of it.
function drawPart(device, side, now) {
  const role = roleOf(device, side);
  const faults = faultsOf(side.mtbf);
  return el("li", { "data-key": side.id },
    el("details.part", { "data-look": lookOf(side.state) },
      el("summary", null,
        mark(side.state),
        el("b", null, device.id), " ",
        el("span.state", null, side.state), " ",
        role && el(`span.role.${role}`, null, role), " ",
        el(faults.quiet ? "span.faults.quiet" : "span.faults", null, faults.words), " ",
        el("span.what", null, whatOf(device, side, now))),
      drawFacts(device, side, now)),
    side.progress && drawProgress(side));
}

// whatOf is what a part is made of, and why it is as it is.
function whatOf(device, side, now) {
  const words = [];
  if (side.resource && side.resource !== moduleOf(side.id)) words.push(side.resource);
  if (side.note) words.push(side.note);
  if (!inService(side) && !side.progress && side.reason) words.push(side.reason);
  if (side.draining) words.push("I/O still draining");
  const retry = date(side.retry_at);
  if (retry && retry > now) words.push(`tried again in ${duration((retry - now) / 1000)}`);
  return words.join(", ");
}

function drawProgress(side) {
  const p = side.progress;
  const percent = Math.min(99, Math.max(0, Math.round(p.percent)));
  const words = [p.what, `${percent} %`];
  if (p.rate_bytes > 0) words.push(rate(p.rate_bytes));
  if (p.eta_seconds >= 0) words.push(`${duration(p.eta_seconds)} left`);
  return el("p.progress", null,
    el("progress", { max: 100, value: percent, "aria-label": `${side.id}: ${p.what}` }),
    el("span", null, words.join(" · ")));
}

function drawFacts(device, side, now) {
  const facts = [];
  const fact = (name, value) => value && facts.push(el("dt", null, name), el("dd", null, value));
  const since = date(side.since);
  const m = side.mtbf ?? {};
  fact("in this state", since && `for ${duration((now - since) / 1000)}: ${side.reason || "no reason is given"}`);
  fact("pulling", side.safe_to_pull ? "safe" : side.pull_note);
  fact("wanted", `${side.target} service, by ${side.target_by === "config" ? "the configuration" : side.target_by === "admin" ? "an admin" : side.target_by}`);
  fact("made of", side.resource);
  fact("identity", side.identity);
  fact("faults", m.faults === undefined ? "" : `${m.faults} in ${hours(m.hours)}${m.injected ? `, and ${m.injected} of drills` : ""}`);
  fact("time between", m.mean_hours !== undefined && `${hours(m.mean_hours)} on average`);
  fact("broken when", { never: "it fails once", always: "never: it always comes back", threshold: `${m.min_faults} faults, and less than ${hours(m.threshold_hours ?? 0)} between them` }[m.policy]);
  const last = date(m.last_fault_at);
  fact("last fault", last && `${m.last_fault}, ${duration((now - last) / 1000)} ago`);
  const own = side.id.startsWith("cpu") && device.stats?.[`${moduleOf(side.id)}_last_fault`];
  fact("in detail", own);
  return el("dl", null, facts);
}

// The crossbar joins the CPU modules above to the PCI modules below: a line for each link,
// unbroken when it is on, broken with a cross when it is off.
const linkEnds = { cpu0: 25, cpu1: 75, pci0: 25, pci1: 75 };

function drawCrossbar(links) {
  const off = links.filter((l) => !l.on);
  const words = off.length === 0 ? `all ${links.length} links on`
    : off.length === links.length ? "all links off" : `${off.map((l) => l.id.replace("-", "–")).join(", ")} off`;
  const ends = [...new Set(links.flatMap((l) => [l.cpu, l.pci]))].sort();
  return el("div.crossbar", { "data-key": "crossbar", "data-off": off.length > 0 },
    ends.map((id) => el("span.end", { "aria-hidden": "true", "data-end": id }, id)),
    svg("svg.wires", { viewBox: "0 0 100 40", preserveAspectRatio: "none", "aria-hidden": "true", focusable: "false" },
      links.map((l) => svg(`line.${l.on ? "on" : "off"}`, { "data-key": l.id, x1: linkEnds[l.cpu] ?? 50, y1: 0, x2: linkEnds[l.pci] ?? 50, y2: 40 }))),
    el("details", null,
      el("summary", null, el("b", null, "crossbar"), " ", el("span", null, words)),
      el("table", null,
        el("thead", null, el("tr", null, ["link", "machine", "is", "passed", "refused"].map((h) => el("th", { scope: "col" }, h)))),
        el("tbody", null, links.flatMap((l) => l.machines.map((m) => el("tr", { "data-key": `${l.id} ${m.device}` },
          el("th", { scope: "row" }, l.id.replace("-", "–")), el("td", null, m.device), el("td", null, m.state),
          el("td", null, m.passed), el("td", null, m.refused))))))));
}
