// Numbers and times in plain words.

/** "1 in 200 good parts scores this high or higher". */
export function chance(p) {
  if (!(p > 0)) return "how often a good part scores this high is not known";
  if (p > 0.5) return "most good parts score this high or higher: nothing unusual";
  const one = 1 / p;
  const rounded = one < 10 ? Math.round(one) : one < 100 ? Math.round(one / 5) * 5 || 10 : Number(one.toPrecision(2));
  return `about 1 in ${rounded.toLocaleString("en")} good parts scores this high or higher`;
}

/** "14:03:22", or with the day where it was not today. */
export function clock(when, now = new Date()) {
  const date = toDate(when);
  const time = date.toLocaleTimeString("en-GB");
  return date.toDateString() === now.toDateString() ? time : `${day(date)}, ${time.slice(0, 5)}`;
}

/** "24 Nov". */
export function day(when) {
  return toDate(when).toLocaleDateString("en-GB", { day: "numeric", month: "short" });
}

/** "12 s ago". */
export function ago(when, now = new Date()) {
  const seconds = Math.max(0, Math.round((now - toDate(when)) / 1000));
  return seconds < 3 ? "just now" : seconds < 86400 * 2 ? `${duration(seconds)} ago` : `${Math.round(seconds / 86400)} days ago`;
}

/** "40 s", "3 min", "2 h". */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}

/** "1 image", "3 images". */
export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
}

/** Seconds since 1970, or an ISO text, as a Date. */
export function toDate(when) {
  return when instanceof Date ? when : new Date(typeof when === "number" ? when * 1000 : when);
}
