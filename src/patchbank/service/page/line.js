// The line: the newest verdict, large enough to be read from 3 m, and the ones before it.

import { badge, decision, fill, h, number, picture, scoreBar, sign } from "./dom.js";
import { decide, on, state } from "./state.js";
import { chooseImages } from "./upload.js";
import { ago, clock, count } from "./words.js";

export const title = "Line";

export function open(root) {
  const banner = h("section.newest", { "aria-label": "Newest inspection" });
  const spoken = h("p.hidden", { role: "status" }); // for who listens: the time in the banner changes every second
  const summary = h("p.summary");
  const list = h("ol.list", { "aria-label": "Inspections, newest first" });
  const problem = h("p.problem", { role: "alert", hidden: true });
  fill(root, spoken, banner, h("div.listhead", {}, h("h2", {}, "Inspections"), summary, chooseImages()), problem, list);
  const rows = new Map(); // by id: { element, key }

  function show() {
    showNewest(banner, state.items[0]);
    spoken.textContent = state.items.length ? `${state.items[0].is_anomalous ? "Rejected" : "Accepted"}: ${state.items[0].name}` : "";
    showSummary(summary, state.items);
    updateRows(list, rows, state.items);
  }

  async function say(verdict) {
    const chosen = document.activeElement?.dataset.id; // the row with the keyboard, or else the newest
    const item = chosen ? state.items.find((other) => String(other.id) === chosen) : state.items[0];
    if (!item) return;
    problem.hidden = true;
    try {
      const newest = await decide(item, verdict, item.note ?? "", (error) => tell(problem, `Not kept yet: ${error.message}; trying again …`));
      if (newest) problem.hidden = true;
    } catch (error) {
      tell(problem, `Not kept: ${error.message}`);
    }
  }

  const stop = on("items", show);
  const timer = setInterval(() => showTime(banner), 1000);
  show();
  return {
    close() {
      stop();
      clearInterval(timer);
    },
    keys: {
      c: () => say("confirmed"), o: () => say("overruled"), u: () => say(null),
      ArrowDown: () => move(list, 1), ArrowUp: () => move(list, -1),
      Enter: (event) => { location.hash = event.target.closest?.("a")?.hash || (state.items[0] ? address(state.items[0]) : "#/"); },
    },
  };
}

/** Whether the list has inspections of several models. */
function isMixed() {
  return state.models.length > 1 && !state.model;
}

function tell(element, words) {
  element.textContent = words;
  element.hidden = false;
}

export function address(item) {
  return `#/image/${encodeURIComponent(item.id)}`;
}

function showNewest(banner, item) {
  const key = item ? `${item.id} ${item.verdict}` : `none ${state.loaded}`;
  if (banner.dataset.key === key) return;
  banner.dataset.key = key;
  if (!item) {
    banner.className = "newest none";
    const words = state.loaded ? "Nothing inspected yet" : "Loading …";
    const hint = "Drop images or a folder anywhere on this page, or let the line's camera send them to the service.";
    fill(banner, h("h1", {}, words), state.loaded ? h("p", {}, hint) : null);
    return;
  }
  banner.className = `newest ${item.is_anomalous ? "rejected" : "accepted"}`;
  fill(
    banner,
    h("div.verdict", {}, sign(item.is_anomalous), h("h1", {}, item.is_anomalous ? "REJECTED" : "ACCEPTED")),
    h("div.facts", {},
      h("p.name", {}, h("a", { href: address(item) }, item.name)),
      scoreBar(item),
      h("p.score", {}, `score ${number(item.score)}, ${item.is_anomalous ? "above" : "within"} the allowed ${number(item.threshold)}`),
      h("p.when", {}, h("time", { "data-when": item.when }), isMixed() ? ` · ${item.model}` : "", " ", decision(item)),
    ),
    h("a.photo", { href: address(item), "aria-label": `Open ${item.name}` }, layers(item, 0.7)),
  );
  showTime(banner);
}

function showTime(banner) {
  const time = banner.querySelector("time");
  if (!time) return;
  const when = /^[\d.]+$/.test(time.dataset.when) ? Number(time.dataset.when) : time.dataset.when;
  const words = `${clock(when)}, ${ago(when)}`;
  if (time.textContent !== words) time.textContent = words;
}

/** The address of a picture. With the time, because browsers keep it: another history has the same ids. */
export function kept(item, folder, what = "") {
  return `${folder}/${encodeURIComponent(item.id)}${what}?${encodeURIComponent(item.when)}`;
}

/** The picture, small, with its heat where it was rejected. */
export function layers(item, opacity) {
  if (!item.image_kept) return h("span.layers.gone", {}, "no picture kept");
  const photo = picture("img.base", kept(item, "page/small"), "");
  if (!item.is_anomalous) return h("span.layers", {}, photo);
  const heat = picture("img.heat", kept(item, "v1/history", "/heat"), "");
  heat.style.opacity = opacity;
  return h("span.layers", {}, photo, heat);
}

function showSummary(summary, items) {
  const rejected = items.filter((item) => item.is_anomalous).length;
  summary.textContent = items.length ? `${count(rejected, "rejected", "rejected")} of the last ${items.length}` : "";
}

/** Rows by id: what is there stays in place, so that the keyboard's place and loaded pictures stay. */
function updateRows(list, rows, items) {
  const wanted = new Set(items.map((item) => item.id));
  for (const [id, row] of rows) {
    if (wanted.has(id)) continue;
    row.element.remove();
    rows.delete(id);
  }
  let after = null;
  for (const item of items) {
    const key = `${item.verdict} ${item.note}`;
    const old = rows.get(item.id);
    if (!old || old.key !== key) {
      const element = old?.element ?? h("li");
      if (old) old.element.querySelector(".said").replaceChildren(decision(item) ?? "");
      else fill(element, listRow(item));
      rows.set(item.id, { element, key });
    }
    const { element } = rows.get(item.id);
    const expected = after ? after.nextSibling : list.firstChild;
    if (expected !== element) list.insertBefore(element, expected);
    after = element;
  }
}

/** One inspection as a line that opens it. */
export function listRow(item, note = null) {
  return h(
    `a.row.${item.is_anomalous ? "rejected" : "accepted"}`, { href: address(item), "data-id": item.id },
    h("span.thumb", {}, layers(item, 0.6)),
    badge(item.is_anomalous),
    h("span.name", {}, item.name, isMixed() ? h("small", {}, ` ${item.model}`) : null),
    h("span.bar", {}, scoreBar(item), h("small", {}, `${number(item.score)} of ${number(item.threshold)}`)),
    h("span.when", {}, clock(item.when)),
    h("span.said", {}, note ?? decision(item)),
  );
}

function move(list, step) {
  const links = [...list.querySelectorAll("a.row")];
  const at = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + step))]?.focus();
}
