// main.js: asks ftd, draws what it says, and says how old that is. An ftd that does not
// answer is asked again, less and less often; what it said last stays, in grey.

const every = 1000; // milliseconds between answers
const everyHidden = 10000; // while nobody looks
const retryMax = 10000;
const patience = 5000; // for one answer
const firstEvents = 200;

const seen = {
  doc: null,
  at: 0, // performance.now() of the last answer
  ahead: 0, // the box's clock less this computer's, milliseconds
  lost: null, // why there is none, in words
  failures: 0,
  next: 0, // performance.now() of the next question
};
let timer = 0;
let asking = false;

async function fetchText(path) {
  let answer, text;
  try {
    answer = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(patience) });
    text = await answer.text();
  } catch {
    throw new Refusal("ftd does not answer: it is stopped or being restarted, or the way to the box is cut. The faces stay up without it.");
  }
  if (!answer.ok) throw new Refusal(text);
  const boxTime = Date.parse(answer.headers.get("Date"));
  // The header has whole seconds: a difference below that is none.
  if (Math.abs(boxTime - Date.now()) > 1500) seen.ahead = boxTime - Date.now();
  else seen.ahead = 0;
  return text;
}

// Refusal is why there is no answer: ftd's own words, where it has any.
class Refusal extends Error {
  constructor(text) {
    let sentence = text;
    try {
      sentence = JSON.parse(text).sentence ?? text;
    } catch {
      // not ftd's own
    }
    super(String(sentence).slice(0, 500));
  }
}

async function ask() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const doc = JSON.parse(await fetchText("/v1/status"));
    if (!doc?.system || !Array.isArray(doc.devices)) throw new Refusal("what answers here is not ftd, or another version of it");
    Object.assign(seen, { doc, at: performance.now(), lost: null, failures: 0 });
    drawAll();
    await askEvents(doc.system.seq);
  } catch (err) {
    seen.failures++;
    seen.lost = err instanceof Refusal ? err.message : `This page cannot show what ftd says: ${err.message}. Reload it; ftctl status on the box shows it too.`;
  }
  const wait = seen.lost ? Math.min(retryMax, every * 2 ** (seen.failures - 1)) : document.hidden ? everyHidden : every;
  seen.next = performance.now() + wait;
  timer = setTimeout(ask, wait);
  asking = false;
  drawAge();
}

// askEvents reads on in the log as far as the status has come. An entry may reach the log
// a moment after the status: it comes with the next answer.
async function askEvents(seq) {
  if (logSeen.last !== null && seq < logSeen.last) forgetLog();
  if (logSeen.last === null || logSeen.last !== seq) {
    takeLines(await fetchText(`/v1/events?since=${logSeen.last ?? Math.max(0, seq - firstEvents)}`));
    drawLog();
  }
}

const boxNow = () => new Date(Date.now() + seen.ahead);

function drawAll() {
  drawVerdict(seen.doc, boxNow());
  drawBox(seen.doc, boxNow());
}

// drawAge says how old is what is shown, each second.
function drawAge() {
  const lost = seen.lost !== null;
  document.body.toggleAttribute("data-lost", lost);
  byId("lost").hidden = !lost;
  if (lost && byId("lost-why").textContent !== plain(seen.lost)) byId("lost-why").textContent = plain(seen.lost);
  if (!lost) byId("lost-why").textContent = "";
  const age = (performance.now() - seen.at) / 1000;
  const next = Math.ceil(Math.max(0, seen.next - performance.now()) / 1000);
  const shown = seen.doc ? `What is shown is ${duration(age)} old.` : "Nothing is known yet.";
  byId("lost-next").textContent = `${shown} ${asking ? "Asking …" : `Asking again in ${next} s.`}`;
  if (lost) {
    drawIcon("lost");
    if (seen.doc) document.title = `${duration(age)} old · ${seen.doc.system.name}`;
  }
  if (!seen.doc) return;
  const as = `as of ${clock(new Date(Date.now() - age * 1000))}`;
  byId("age").textContent = lost ? `${as}, ${duration(age)} ago` : `${as}, live`;
}

byId("lost-again").addEventListener("click", ask);
for (const id of ["log-follow", "log-less"]) byId(id).addEventListener("change", drawLog);
byId("log-release").addEventListener("click", () => {
  byId("log-follow").checked = true;
  drawLog();
  byId("log-follow").focus();
});
document.addEventListener("visibilitychange", () => document.hidden || ask());
addEventListener("online", ask);

// On paper all is open.
addEventListener("beforeprint", () => document.querySelectorAll("details:not([open])").forEach((d) => {
  d.open = true;
  d.dataset.forPrint = "";
}));
addEventListener("afterprint", () => document.querySelectorAll("details[data-for-print]").forEach((d) => {
  d.open = false;
  delete d.dataset.forPrint;
}));

setInterval(drawAge, 1000);
ask();
