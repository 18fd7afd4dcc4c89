// What another threshold would have done to the inspections of today, or the last ones. It changes nothing.

import { get } from "./api.js";
import { histogram } from "./chart.js";
import { badge, fill, h, number } from "./dom.js";
import { listRow } from "./line.js";
import { currentModel, on } from "./state.js";
import { count } from "./words.js";

export const title = "What if";

const PAGE = 200, SHOWN = 50;
const RANGES = [["today", "today"], ["100", "the last 100"], ["1000", "the last 1000"]];

export function open(root) {
  const range = h("select", { id: "range" }, RANGES.map(([value, words]) => h("option", { value }, words)));
  const body = h("div", {}, h("p.empty", {}, "Loading …"));
  const heading = h("h1", {}, title);
  let round = 0;
  async function load() {
    const number = ++round;
    const model = currentModel();
    if (!model) return;
    heading.textContent = `What if the threshold of ${model.name} were another?`;
    try {
      const [items, scores] = await Promise.all([inspections(model.name, range.value), calibrationScores(model)]);
      if (number !== round) return;
      if (items.length) show(body, model, items, scores);
      else fill(body, h("p.empty", {}, `Nothing inspected by ${model.name} ${range.value === "today" ? "today" : "yet"}.`));
    } catch (error) {
      if (number === round) fill(body, h("p.empty", {}, `The inspections cannot be shown: ${error.message}. `, h("button", { type: "button", onclick: load }, "Try again")));
    }
  }
  range.addEventListener("change", load);
  fill(root, heading,
    h("p.lead", {}, "Move the slider and see which parts would have been judged differently. Nothing changes by it: the model stays as it is."),
    h("label.inline", {}, "Inspections: ", range), body);
  const stop = on("models", load);
  load();
  return { close() { round += 1; stop(); } };
}

/** All inspections of today, or the last ones, newest first. */
async function inspections(model, range) {
  const wanted = range === "today" ? 5000 : Number(range);
  const midnight = new Date().setHours(0, 0, 0, 0);
  const found = [];
  let before = null;
  while (found.length < wanted) {
    const { items, next } = await get("v1/history", { model, before, limit: Math.min(PAGE, wanted - found.length) });
    const fresh = range === "today" ? items.filter((item) => new Date(item.when) >= midnight) : items;
    found.push(...fresh);
    if (!next || fresh.length < items.length) break;
    before = next;
  }
  return found;
}

async function calibrationScores(model) {
  return model.calibration_scores ?? (await get(`v1/models/${encodeURIComponent(model.name)}`)).calibration_scores ?? [];
}

function show(body, model, items, calibration) {
  const scores = items.map((item) => item.score);
  const values = [...scores, ...calibration, model.threshold].filter(Number.isFinite);
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const margin = 0.05 * (most - least || 1);
  const [low, high] = [Math.max(0, least - margin), most + margin];
  const slider = h("input", { type: "range", id: "threshold", min: low, max: high, step: (high - low) / 400, "aria-label": "Threshold to try" });
  const chart = h("div.chartbox");
  const words = h("p.answer", { role: "status" });
  const changes = h("div");
  const reset = h("button", { type: "button", onclick: () => { slider.value = model.threshold; update(model.threshold); } }, "Back to the model's threshold");

  function update(threshold) {
    const rejected = scores.filter((score) => score > threshold).length;
    const before = items.filter((item) => item.is_anomalous).length;
    const alarms = calibration.filter((score) => score > threshold).length;
    slider.setAttribute("aria-valuetext", number(threshold));
    fill(words, "At ", h("b", {}, number(threshold)), ": ", h("b.rejected", { id: "would" }, rejected.toLocaleString("en")), ` of ${items.length.toLocaleString("en")} would have been rejected; ${before} were.`,
      calibration.length ? h("small", {}, `Of the ${calibration.length} good parts of the calibration ${alarms} would be rejected (${((100 * alarms) / calibration.length).toFixed(1)} %).`) : null);
    fill(chart, histogram({ scores, calibration, low, high, threshold, now: model.threshold }));
    showChanges(changes, items.filter((item) => item.score > threshold !== item.is_anomalous), threshold);
  }

  slider.addEventListener("input", () => update(Number(slider.value)));
  fill(body, words, h("div.over", {}, chart, slider), h("p.legend", {}, h("span.key.accepted"), "accepted ", h("span.key.rejected"), "rejected ", h("span.key.calibration"), "good parts of the calibration"), reset, changes);
  slider.value = model.threshold;
  update(model.threshold);
}

function showChanges(root, changed, threshold) {
  if (!changed.length) {
    fill(root, h("p.hint", {}, "No verdict would change."));
    return;
  }
  const more = changed.length > SHOWN ? h("p.hint", {}, `… and ${count(changed.length - SHOWN, "more", "more")}`) : null;
  const sorted = changed.sort((a, b) => b.score - a.score).slice(0, SHOWN);
  fill(root, h("h2", {}, count(changed.length, "verdict would change", "verdicts would change")),
    h("ol.list", {}, sorted.map((item) => h("li", {}, listRow(item, h("span.change", {}, "→ ", badge(item.score > threshold)))))), more);
}
