// One inspection: the picture with its map, the verdict in words, the nearest good patches, and what a person says.

import { get } from "./api.js";
import { channelBars, heightReadout } from "./channels.js";
import { decision, fill, h, number, scoreBar, sign } from "./dom.js";
import { explanation } from "./explanation.js";
import { address } from "./line.js";
import { decide, on, refreshModels, remember, remembered, state } from "./state.js";
import { viewer } from "./viewer.js";
import { chance, clock, count } from "./words.js";

export const title = "Inspection";

export function open(root, id) {
  const keys = { Escape: () => { location.hash = "#/"; }, ArrowLeft: () => go(id, "newer"), ArrowRight: () => go(id, "older") };
  let closed = false;
  fill(root, h("p.empty", {}, "Loading …"));
  load(id).then(
    (item) => { if (!closed) Object.assign(keys, show(root, item)); },
    (error) => { if (!closed) fill(root, h("p.empty", {}, `This inspection cannot be shown: ${error.message}. `, h("a", { href: "#/" }, "Back to the line"))); },
  );
  return { close() { closed = true; }, keys };
}

async function load(id) {
  const item = state.items.find((other) => String(other.id) === id) ?? (await get(`v1/history/${encodeURIComponent(id)}`));
  if (item.geometry_kept && !state.models.length) await refreshModels().catch(() => {}); // the banner tells
  return item;
}

/** Whether a part has a picture and geometry: of geometry alone the service shows the surface as its picture. */
function hasBoth(item) {
  return item.geometry_kept && (state.models.find((model) => model.name === item.model)?.needs.includes("rgb") ?? true);
}

function show(root, item) {
  const view = viewer(item, hasBoth(item));
  const layers = layerControls(view, item);
  const verdict = verdictControls(item);
  const rejected = item.is_anomalous;
  const nearest = h("section.nearest", { "aria-label": "Nearest good patches" });
  fill(
    root,
    h("div.picture", {},
      h("div.bar", {},
        h("a.back", { href: "#/" }, "‹ Line"),
        h("span.name", {}, item.name),
        h("span.steps", {},
          h("button", { type: "button", onclick: () => go(item.id, "newer"), "aria-label": "Newer inspection", title: "Newer (←)" }, "←"),
          h("button", { type: "button", onclick: () => go(item.id, "older"), "aria-label": "Older inspection", title: "Older (→)" }, "→"))),
      view.element, item.geometry_kept ? heightReadout(item, view.onPointer) : null, layers.element),
    h(`div.verdict.${rejected ? "rejected" : "accepted"}`, {}, sign(rejected), h("h1", {}, rejected ? "REJECTED" : "ACCEPTED")),
    h("section.about", { "aria-label": "What the model and people say" },
      scoreBar(item),
      h("p.score", {}, `Score ${number(item.score)}, ${rejected ? "above" : "within"} the allowed ${number(item.threshold)}.`),
      h("p", {}, `${upper(chance(item.p_value))}.`),
      channelBars(item),
      h("p.hint", {}, `${regionWords(item)} Inspected ${clock(item.when)} by ${item.model}.`),
      verdict.element),
    nearest,
  );
  explanation(nearest, item);
  return { ...layers.keys, ...verdict.keys };
}

function upper(words) {
  return words[0].toUpperCase() + words.slice(1);
}

function regionWords(item) {
  return item.regions.length ? `${count(item.regions.length, "region")} above the map's threshold.` : "No region above the map's threshold.";
}

function layerControls(view, item) {
  const opacity = h("input", { type: "range", min: 0, max: 100, step: 5, id: "opacity", "aria-label": "Opacity of the map" });
  opacity.value = remembered("opacity") ?? 60;
  const regions = h("input", { type: "checkbox", id: "regions", checked: true });
  let before = 60;
  const apply = () => {
    view.setOpacity(opacity.value / 100);
    remember("opacity", opacity.value);
  };
  opacity.addEventListener("input", apply);
  regions.addEventListener("change", () => view.showRegions(regions.checked));
  apply();
  const views = hasBoth(item) ? viewSwitch(view) : null;
  const button = (words, label, action) => h("button", { type: "button", "aria-label": label, title: label, onclick: action }, words);
  const element = h(
    "div.controls", {},
    views?.element,
    h("label.wide", { for: "opacity" }, "Map ", opacity),
    h("label", {}, regions, ` Regions (${item.regions.length})`),
    h("span.steps", {},
      button("−", "Smaller (−)", () => view.zoom(1 / 1.5)), button("+", "Larger (+)", () => view.zoom(1.5)), button("⤢", "Whole image (0)", view.reset)),
  );
  const keys = {
    m() {
      if (Number(opacity.value)) [before, opacity.value] = [opacity.value, 0];
      else opacity.value = before;
      apply();
    },
    r: () => regions.click(),
    ...views?.keys,
    "+": () => view.zoom(1.5), "=": () => view.zoom(1.5), "-": () => view.zoom(1 / 1.5), 0: view.reset,
  };
  return { element, keys };
}

const VIEWS = { side: "Side by side", picture: "Picture", shape: "Height" };

/** All panes of a part with geometry, or one of them with the map over it. */
function viewSwitch(view) {
  const names = Object.keys(VIEWS);
  const buttons = names.map((name) => h("button", { type: "button", "data-view": name, onclick: () => choose(name) }, VIEWS[name]));
  let chosen = "";
  function choose(name) {
    chosen = name;
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.view === name));
    view.show(name);
    remember("view", name);
  }
  choose(names.includes(remembered("view")) ? remembered("view") : names[0]);
  return {
    element: h("span.switch", { role: "group", "aria-label": "What is shown" }, buttons),
    keys: { v: () => choose(names[(names.indexOf(chosen) + 1) % names.length]) },
  };
}

function verdictControls(item) {
  const said = h("p.said", { role: "status" });
  const note = h("textarea", { id: "note", rows: 2, maxlength: 1000, placeholder: "such as: dust on the part" });
  note.value = item.note ?? "";
  const wrong = item.is_anomalous ? "it was good" : "it was bad";
  const buttons = [
    ["confirmed", "C", "Confirm", "the verdict is right"], ["overruled", "O", "Overrule", wrong], [null, "U", "Undo", "take it back"],
  ].map(([verdict, key, word, meaning]) =>
    h("button", { type: "button", "data-verdict": verdict ?? "none", onclick: () => say(verdict) }, h("kbd", {}, key), h("b", {}, ` ${word}`), h("small", {}, meaning)));

  let latest = 0;
  async function say(verdict) {
    const number = ++latest;
    const tell = (words) => { if (number === latest) said.textContent = words; };
    tell("Keeping it …");
    try {
      Object.assign(item, await decide(item, verdict, note.value, (error) => tell(`Not kept yet: ${error.message}; trying again …`)));
      if (number === latest) update();
    } catch (error) {
      tell(`Not kept: ${error.message}`);
    }
  }

  function update() {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.verdict === (item.verdict ?? "none") && item.verdict !== null));
    fill(said, decision(item) ?? "Nobody has looked at it yet.", item.verdict === "overruled" && item.is_anomalous
      ? h("span", {}, " ", h("a", { href: "#/alarms" }, "Teach it to the model")) : null);
  }

  note.addEventListener("change", () => { if (item.verdict && note.value !== (item.note ?? "")) say(item.verdict); });
  update();
  return {
    element: h("div.say", {}, said, h("div.buttons", {}, buttons), h("label", { for: "note" }, h("kbd", {}, "N"), " Note"), note),
    keys: { c: () => say("confirmed"), o: () => say("overruled"), u: () => say(null), n: () => note.focus() },
  };
}

/** The inspection beside this one, from the list or, beyond its ends and before it has come, from the history. */
async function go(id, where) {
  const at = state.items.findIndex((item) => String(item.id) === String(id));
  const step = where === "older" ? 1 : -1;
  let next = at < 0 ? null : state.items[at + step];
  if (!next) {
    const beside = where === "older" ? { before: id } : { after: id };
    const { items } = await get("v1/history", { model: state.model, ...beside, limit: 1 }).catch(() => ({ items: [] }));
    next = items[0];
  }
  if (next) location.hash = address(next);
}
