// Small charts in SVG: a histogram of scores against those of the calibration, and scores by day.

import { day } from "./words.js";
import { number, s } from "./dom.js";

const WIDTH = 720, HEIGHT = 260, LEFT = 44, BOTTOM = 28, TOP = 18, RIGHT = 12, NAMES = 130; // in its units

/** Linear scales into the drawing: x and y take values. */
function frame([x0, x1], [y0, y1]) {
  return {
    x: (value) => LEFT + ((value - x0) / (x1 - x0 || 1)) * (WIDTH - LEFT - RIGHT),
    y: (value) => HEIGHT - BOTTOM - ((value - y0) / (y1 - y0 || 1)) * (HEIGHT - BOTTOM - TOP),
  };
}

function drawing(label, ...children) {
  return s("svg.chart", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label }, children);
}

/** Round numbers that divide a range into about four. */
export function ticks(low, high, about = 4) {
  const rough = (high - low) / about || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const result = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) result.push(Number(value.toPrecision(12)));
  return result;
}

/** Counts of values in equal bins. */
export function bins(values, low, high, many) {
  const counts = new Array(many).fill(0);
  for (const value of values) counts[Math.min(many - 1, Math.max(0, Math.floor(((value - low) / (high - low || 1)) * many)))] += 1;
  return counts;
}

/** `scores` as bars (those above `threshold` in the colour of a rejection), `calibration` as a line of the same area. */
export function histogram({ scores, calibration, low, high, threshold, now }) {
  const many = 36;
  const mine = bins(scores, low, high, many);
  const scale = calibration.length ? scores.length / calibration.length : 0;
  const theirs = bins(calibration, low, high, many).map((value) => value * scale);
  const { x, y } = frame([low, high], [0, Math.max(1, ...mine, ...theirs)]);
  const edge = (i) => x(low + ((high - low) * i) / many);
  const bars = mine.map((value, i) => value ? bar(edge(i), edge(i + 1), y(value), y(0), low + ((high - low) * (i + 0.5)) / many > threshold) : null);
  const outline = theirs.map((value, i) => `${i ? "L" : "M"}${edge(i).toFixed(1)} ${y(value).toFixed(1)}H${edge(i + 1).toFixed(1)}`).join("");
  return drawing(
    "Scores of the inspections as bars, of the calibration as a line",
    ticks(low, high, 6).map((value) => [s("line.grid", { x1: x(value), x2: x(value), y1: TOP, y2: HEIGHT - BOTTOM }), text("axis", x(value), HEIGHT - 8, number(value), "middle")]),
    bars, calibration.length ? s("path.calibration", { d: outline }) : null,
    s("line.baseline", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(0), y2: y(0) }),
    marker(x(now), "now", "now", now < threshold), marker(x(threshold), "what-if", threshold === now ? "" : "what if", threshold < now),
  );
}

function bar(left, right, top, bottom, above) {
  return s(`rect.bar.${above ? "rejected" : "accepted"}`, { x: left + 1, width: Math.max(1, right - left - 2), y: top, height: bottom - top });
}

/** A line with its name to the left or right of it: two that are near keep apart. */
function marker(x, kind, words, toTheLeft) {
  return [s(`line.${kind}`, { x1: x, x2: x, y1: TOP - 8, y2: HEIGHT - BOTTOM }), text(kind, x + (toTheLeft ? -5 : 5), TOP - 4, words, toTheLeft ? "end" : "start")];
}

function text(kind, x, y, words, anchor) {
  return s(`text.${kind}`, { x, y, "text-anchor": anchor }, words);
}

/** One box a day: 5 % to 95 % as a line, the middle half as a box, the median as a stroke; the calibration as a band. */
export function boxes({ days, calibration, threshold }) {
  const known = [...days, calibration].flatMap((one) => [one.q05, one.q95]).concat(threshold).filter((value) => Number.isFinite(value));
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const margin = 0.08 * (most - least || 1);
  const range = [Math.max(0, least - margin), most + margin];
  const { y } = frame([0, 1], range);
  const end = WIDTH - NAMES;
  const slot = (end - LEFT) / days.length;
  const wide = Math.min(26, slot * 0.6);
  const every = Math.ceil(days.length / 10);
  const level = (value, kind) => Number.isFinite(value) ? s(`line.${kind}`, { x1: LEFT, x2: end, y1: y(value), y2: y(value) }) : null;
  const name = (value, kind, words) => Number.isFinite(value) ? text(kind, end + 6, y(value) + 4, words, "start") : null;
  return drawing(
    "Scores by day against those of the calibration",
    Number.isFinite(calibration.q05) ? s("rect.band", { x: LEFT, width: end - LEFT, y: y(calibration.q95), height: y(calibration.q05) - y(calibration.q95) }) : null,
    ticks(...range).map((value) => [s("line.grid", { x1: LEFT, x2: end, y1: y(value), y2: y(value) }), text("axis", LEFT - 6, y(value) + 4, number(value), "end")]),
    level(calibration.q50, "calibration"), level(threshold, "now"),
    days.map((one, i) => {
      const middle = LEFT + slot * (i + 0.5);
      return s("g.day", {}, s("title", {}, `${one.day}: ${one.count} inspected, median ${number(one.q50)}`),
        s("line.span", { x1: middle, x2: middle, y1: y(one.q05), y2: y(one.q95) }),
        s("rect.half", { x: middle - wide / 2, width: wide, y: y(one.q75), height: Math.max(1, y(one.q25) - y(one.q75)) }),
        s("line.median", { x1: middle - wide / 2, x2: middle + wide / 2, y1: y(one.q50), y2: y(one.q50) }),
        i % every === 0 ? text("axis", middle, HEIGHT - 8, day(`${one.day}T12:00:00`), "middle") : null);
    }),
    name(calibration.q50, "calibration", "calibration"), name(threshold, "now", "threshold"),
  );
}
