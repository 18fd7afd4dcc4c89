// Whether the scores still look as they did when the model was calibrated.

import { get } from "./api.js";
import { boxes } from "./chart.js";
import { fill, h, number, sign, warningSign } from "./dom.js";
import { currentModel, on } from "./state.js";
import { count } from "./words.js";

export const title = "Drift";

export function open(root) {
  const days = h("select", { id: "days" }, [7, 30, 90].map((n) => h("option", { value: n }, `${n} days`)));
  const body = h("div", {}, h("p.empty", {}, "Loading …"));
  const heading = h("h1", {}, title);
  let round = 0;
  async function load() {
    const mine = ++round;
    const model = currentModel();
    if (!model) return;
    heading.textContent = `Drift of ${model.name}`;
    try {
      const drift = await get(`v1/models/${encodeURIComponent(model.name)}/drift`, { days: days.value });
      if (mine === round) show(body, drift, model);
    } catch (error) {
      if (mine === round) fill(body, h("p.empty", {}, `The drift cannot be shown: ${error.message}. `, h("button", { type: "button", onclick: load }, "Try again")));
    }
  }
  days.value = 30;
  days.addEventListener("change", load);
  const stop = on("models", load);
  fill(root, heading, h("p.lead", {}, "A lens that fogs, a lamp that ages, a new supplier: the scores of good parts move before anything is rejected."),
    h("label.inline", {}, "Show: ", days), body);
  load();
  return { close() { round += 1; stop(); } };
}

function show(body, drift, model) {
  if (!drift.days.length) {
    fill(body, h("p.empty", {}, `Nothing was inspected by ${model.name} in this time.`));
    return;
  }
  const { warning } = drift;
  const calm = drift.p_value === null
    ? `${count(drift.last.count, "inspection")} by this model as it is now, ${count(drift.calibration.count, "score")} in its calibration: too few to tell.`
    : `No drift: the last ${drift.last.count} scores look like those of the calibration.`;
  fill(
    body,
    h(`p.alarm.${warning ? "rejected" : "accepted"}`, { role: "status" }, warning ? warningSign() : sign(false), h("span", {}, warning ? `${warning[0].toUpperCase()}${warning.slice(1)}.` : calm)),
    h("div.chartbox", {}, boxes(drift)),
    h("p.legend", {}, h("span.key.band"), "calibration, 5 % to 95 % ", h("span.key.half"), "middle half of a day's scores, with its median; the line from 5 % to 95 %"),
    h("div.wide", {}, table(drift)),
  );
}

function table({ days, calibration }) {
  const row = (name, one, rejected) => h("tr", {}, h("th", { scope: "row" }, name), [one.count, rejected, number(one.q05), number(one.q50), number(one.q95)].map((value) => h("td", {}, String(value))));
  return h("table", {},
    h("thead", {}, h("tr", {}, ["Day (UTC)", "Inspected", "Rejected", "5 %", "Median", "95 %"].map((word) => h("th", { scope: "col" }, word)))),
    h("tbody", {}, row("Calibration", calibration, "–"), [...days].reverse().map((one) => row(one.day, one, one.rejected))));
}
