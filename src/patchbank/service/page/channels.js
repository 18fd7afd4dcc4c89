// Parts seen in several channels: which of them raised the alarm, and the height under the pointer.

import { get } from "./api.js";
import { h } from "./dom.js";

const MEANINGS = {
  rgb: "the picture", curvature: "how the surface bends", normals: "which way the surface faces", height: "how high the surface is",
  shading: "the surface under three lights", fpfh: "the shape around each point", points: "the points, seen by a network", holes: "where points are missing",
  valid: "the share of measured points",
  relief: "the heights of the surface",
};
const LEAST = 8; // standard deviations that fill a bar at least, so that the bars of a good part stay short
const SHARE = 0.5; // of the largest distance: what reaches it has seen the same place

/** How far the strangest place is from good parts in each channel: a sentence and bars; null for one channel alone. */
export function channelBars(item) {
  const found = Object.entries(item.channels ?? {}).filter(([, value]) => value !== null).sort((a, b) => b[1] - a[1]);
  if (found.length < 2) return null;
  const most = Math.max(LEAST, found[0][1]);
  const [name, value] = found[0];
  return h(
    "section.channels", { "aria-label": "Channels" },
    h("p", {}, h("b", {}, verdict(item, found)), ` Strangest is ${meaning(name)}: ${deviations(value)} standard deviations above good parts.`),
    h("dl", {}, found.map(([channel, far]) => [
      h("dt", { title: meaning(channel) }, channel),
      h("dd", {}, bar(channel, far / most), h("span", {}, deviations(far))),
    ])),
  );
}

/** Whether the picture, the shape or both raised the alarm. */
function verdict(item, found) {
  if (!item.is_anomalous) return "Nothing raised an alarm.";
  const most = found[0][1];
  const kinds = new Set(found.filter(([, value]) => value >= SHARE * most).map(([channel]) => (channel === "rgb" ? "picture" : "shape")));
  if (kinds.size > 1) return "Picture and shape raised the alarm.";
  return `The ${[...kinds][0]} raised the alarm.`;
}

function meaning(channel) {
  const sides = /^views(\d+)$/.exec(channel);
  return sides ? `the part, drawn from ${sides[1]} sides` : MEANINGS[channel] ?? channel;
}

function deviations(value) {
  return Math.abs(value) < 10 ? value.toFixed(1) : value.toFixed(0);
}

function bar(channel, share) {
  const fill = h(`span.fill.${channel === "rgb" ? "of-picture" : "of-shape"}`);
  fill.style.inlineSize = `${100 * Math.max(0, Math.min(1, share))}%`;
  return h("span.channelbar", { "aria-hidden": "true" }, fill);
}

/** A line that says the height where the pointer is, in mm; `onPointer` tells it. */
export function heightReadout(item, onPointer) {
  const line = h("p.readout", { "aria-label": "Height under the pointer" }, "Point at the part to read its height.");
  let grid = null, asked = false, latest = null;

  async function load() {
    asked = true;
    try {
      grid = decoded(await get(`v1/history/${encodeURIComponent(item.id)}/heights`));
    } catch (error) {
      grid = { problem: error.message };
    }
    show();
  }

  function show() {
    if (!latest || !grid) return;
    const [x, y] = latest;
    line.textContent = grid.problem ? `No heights: ${grid.problem}` : `Column ${x}, row ${y}: ${heightWords(grid, x, y)}`;
  }

  onPointer((pixel) => {
    latest = pixel;
    if (pixel && !asked) load();
    show();
  });
  return line;
}

function heightWords(grid, x, y) {
  const [row, column] = [Math.min(grid.rows - 1, Math.floor(y / grid.pixels)), Math.min(grid.columns - 1, Math.floor(x / grid.pixels))];
  const number = grid.data.getUint16(2 * (row * grid.columns + column), true);
  if (!number) return "no point was measured here";
  const height = grid.lowest_mm + (number - 1) * grid.step_mm;
  return `${height.toFixed(2)} mm above ${grid.is_background ? "the background" : "the plane through the part"}`;
}

function decoded(grid) {
  const bytes = Uint8Array.from(atob(grid.data), (letter) => letter.charCodeAt(0));
  return { ...grid, data: new DataView(bytes.buffer) };
}
