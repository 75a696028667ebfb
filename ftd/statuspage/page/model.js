// model.js: what the status document means, without drawing any of it.

// A look is how a state is shown: its colour is never alone, shape and word go with it.
const looks = {
  duplex: "good", simplex: "alone", syncing: "work", diagnostics: "work", dumping: "work",
  shot: "fault", broken: "fault", down: "fault", offline: "out", removed: "out", empty: "out",
};
const lookOf = (state) => looks[state] ?? "fault";

const inService = (side) => side.state === "simplex" || side.state === "duplex";

const moduleOf = (sideID) => sideID.split("/", 1)[0];

// partsOf lists the sides that a module carries, each with its device.
function partsOf(doc, module) {
  return doc.devices.flatMap((device) =>
    (device.sides ?? []).filter((side) => moduleOf(side.id) === module).map((side) => ({ device, side })));
}

// pullOf is the lamp of a part: green, it may be pulled; red, it is the last that carries
// something; yellow, it is in the middle of something, or not known.
function pullOf(part, sides) {
  if (part.safe_to_pull) return { lamp: "green", words: "safe to pull" };
  if (sides.some((s) => s.state === "simplex" && !s.safe_to_pull)) return { lamp: "red", words: "do not pull" };
  return { lamp: "yellow", words: "do not pull yet" };
}

// roleOf says whether a side carries its face at present.
function roleOf(device, side) {
  if (!inService(side)) return "";
  return device.kind === "nic" && !side.active ? "standby" : "carries";
}

// linksOf are the links of the crossbar. One is on when it is for every machine that runs.
function linksOf(doc) {
  const links = new Map();
  for (const device of doc.devices) {
    for (const [id, link] of Object.entries(device.stats?.links ?? {})) {
      const [cpu, pci] = id.split("-");
      if (!link || !pci) continue;
      const have = links.get(id) ?? { id, cpu, pci, on: true, machines: [] };
      have.on &&= link.state === "on";
      have.machines.push({ device: device.id, state: String(link.state), passed: link.passed, refused: link.refused });
      links.set(id, have);
    }
  }
  return [...links.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
}

// faceOf is where applications find a device.
function faceOf(device) {
  const addresses = device.stats?.addresses;
  if (device.kind === "nic" && Array.isArray(addresses) && addresses.length > 0) return String(addresses[0]);
  return device.face === device.id ? "" : device.face;
}

// faultsOf is the history of a part in a few words.
function faultsOf(mtbf) {
  const words = [];
  if (mtbf?.faults > 0) words.push(count(mtbf.faults, "fault") + (mtbf.mean_hours === undefined ? "" : `, one in ${hours(mtbf.mean_hours)}`));
  if (mtbf?.injected > 0) words.push(count(mtbf.injected, "drill fault"));
  return { words: words.join(", ") || "no faults", quiet: !(mtbf?.faults > 0) };
}

// saidOnce is a sentence without what counts down in it, so that a screen reader is told of
// a change and not of each second.
function saidOnce(sentence) {
  return sentence.replace(/\d+(\.\d+)? %/g, "").replace(/\d+:\d\d(:\d\d)?( min)?( left)?/g, "").replace(/\d+ s\b( left)?/g, "");
}
