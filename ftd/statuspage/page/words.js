// words.js: numbers as people read them, the same as ftctl writes them.

// duration is 0:41, 1:02:03 or 3 d 4 h.
function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 3600) return `${Math.floor(s / 60)}:${two(s % 60)}`;
  if (s < 48 * 3600) return `${Math.floor(s / 3600)}:${two(Math.floor(s / 60) % 60)}:${two(s % 60)}`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// rate is in SI units: 1.1 GB/s.
function rate(bytes) {
  const units = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
  let v = bytes, i = 0;
  for (; v >= 999.5 && i < units.length - 1; i++) v /= 1000;
  return `${v < 9.95 ? v.toFixed(1).replace(/\.0$/, "") : v.toFixed(0)} ${units[i]}`;
}

// hours is a time between faults: 12 min, 41 h, 90 d.
function hours(h) {
  if (h < 1) return `${Math.round(h * 60)} min`;
  return h < 1000 ? `${Math.round(h)} h` : `${Math.round(h / 24)} d`;
}

function count(n, word) {
  return n === 1 ? `1 ${word}` : `${n} ${word}s`;
}

// clock is a time of the day, by this computer.
const clock = (t) => t.toLocaleTimeString("en-GB");

const day = (t) => t.toLocaleDateString("en-CA"); // 2026-01-31

// date is a time from the box, null for none: Go writes one that was never set as year 1.
function date(text) {
  const t = new Date(text ?? NaN);
  return Number.isNaN(t.getTime()) || t.getFullYear() < 1971 ? null : t;
}
