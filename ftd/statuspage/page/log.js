// log.js: what happened, the newest on top. While it is held, what comes waits.

const logKept = 300;
const logSeen = { entries: [], last: null, held: null };

const severities = { info: "", warning: "warning", error: "error", critical: "critical" };

// takeLines adds the lines of an answer of /v1/events.
function takeLines(text) {
  for (const line of text.split("\n")) {
    let e = null;
    try {
      e = JSON.parse(line);
    } catch {
      continue; // the empty end, or a line cut off
    }
    if (e.marker === "live") logSeen.last = e.seq;
    else if (e.marker === "gap") logSeen.entries.push({ seq: e.seq + 0.5, gap: e.lost });
    else if (e.seq > (logSeen.entries.at(-1)?.seq ?? 0)) logSeen.entries.push(e);
  }
  logSeen.entries = logSeen.entries.slice(-logKept);
}

// forgetLog is for a box whose numbers have begun anew.
function forgetLog() {
  logSeen.entries = [];
  logSeen.last = null;
  logSeen.held = null;
}

function drawLog() {
  byId("events").hidden = false;
  const follow = byId("log-follow").checked;
  const newest = logSeen.entries.at(-1)?.seq ?? 0;
  if (follow) logSeen.held = null;
  else logSeen.held ??= newest;
  const less = byId("log-less").checked;
  const wanted = logSeen.entries.filter((e) => !less || e.gap || (e.severity && e.severity !== "info"));
  const shown = wanted.filter((e) => logSeen.held === null || e.seq <= logSeen.held);
  const waiting = wanted.length - shown.length;
  byId("log-held").hidden = waiting === 0;
  byId("log-release").textContent = `${count(waiting, "event")} more: show`;
  let above = "";
  const rows = [];
  for (const e of shown.toReversed()) {
    const at = date(e.time);
    if (at && day(at) !== above) rows.push(el("li.day", { "data-key": `day ${day(at)}` }, above = day(at)));
    rows.push(drawEntry(e, at));
  }
  if (rows.length === 0) rows.push(el("li.none", null, "nothing yet"));
  lay(byId("log"), rows);
}

function drawEntry(e, at) {
  if (e.gap) return el("li.gap", { "data-key": `gap ${e.seq}` }, `${count(e.gap, "event")} before this are not shown here: ftctl events has them`);
  const change = e.from && e.to && e.from !== e.to ? `${e.from} → ${e.to}` : e.to;
  const severity = severities[e.severity] ?? e.severity;
  return el("li.entry", { "data-key": `e${e.seq}`, "data-severity": e.severity },
    el("span.seq", null, e.seq), " ",
    el("time", { datetime: e.time, title: e.time }, at ? clock(at) : ""), " ",
    el("b", null, e.id), " ",
    el("span.change", null, change), " ",
    severity && el("span.severity", null, severity), " ",
    el("span.reason", null, e.reason));
}
