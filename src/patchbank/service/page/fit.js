// Teach a new model from a folder of good parts below the folder that the service was allowed.

import { ApiError, get, post, remove } from "./api.js";
import { fill, h } from "./dom.js";
import { chooseModel, refreshModels, state, wait } from "./state.js";
import { ago, count, duration } from "./words.js";

export const title = "Fit";

const METHODS = [
  ["patchcore", "PatchCore: finds most, a good start"], ["padim", "PaDiM: for parts that always lie alike"], ["fapm", "FAPM: faster where parts lie alike"],
];
const STAGES = { features: "looking at the images", memory: "choosing what to keep", coreset: "choosing what to keep", calibration: "setting the threshold", thumbnails: "keeping small pictures", saving: "saving" };

export function open(root) {
  const form = h("div", {}, h("p.empty", {}, "Loading …"));
  const list = h("ol.fits", { "aria-label": "Fits, newest first" });
  const cards = new Map(); // by the number of the fit
  let closed = false;
  fill(root, h("h1", {}, "Fit a new model"), form, list);
  begin();

  async function begin() {
    try {
      const { folders } = await get("v1/fits/folders");
      if (closed) return;
      if (folders.length) showForm(form, folders, () => follow());
      else fill(form, h("p.empty", {}, "There is no folder with images below the folder that the service may fit from. Copy good parts there, and look again. ", h("button", { type: "button", onclick: begin }, "Look again")));
      follow();
    } catch (error) {
      if (closed) return;
      const words = error.status === 404 ? `Fitting from this page is not switched on: ${error.message}` : `The folders cannot be listed: ${error.message}`;
      fill(form, h("p.empty", {}, words));
    }
  }

  let following = false;
  let again = false; // one was started while the list was on its way
  async function follow() {
    again = following;
    if (following) return;
    following = true;
    for (;;) {
      let active = true;
      try {
        const { items } = await get("v1/fits");
        if (closed) return;
        for (const fit of [...items].reverse()) {
          if (!cards.has(fit.id)) {
            cards.set(fit.id, card(fit));
            list.prepend(cards.get(fit.id).element);
          }
          cards.get(fit.id).update(fit);
        }
        active = items.some(isActive);
        if (items.some((fit) => fit.state === "done" && !state.models.some((model) => model.name === fit.model))) await refreshModels();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error; // the banner tells of a lost connection
      }
      if (closed || !(active || again)) break;
      again = false;
      await wait(500);
    }
    following = false;
  }

  return { close() { closed = true; } };
}

function showForm(root, folders, started) {
  const folder = h("select", { id: "folder", required: true }, folders.map(({ name, images }) => h("option", { value: name }, `${name === "." ? "everything" : name} (${count(images, "image")})`)));
  const name = h("input", { id: "name", required: true, maxlength: 64, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", title: "Letters, digits, dots, dashes and underscores", autocomplete: "off" });
  const method = h("select", { id: "method" }, METHODS.map(([value, words]) => h("option", { value }, words)));
  const rate = h("select", { id: "rate" }, [[0.001, "1 in 1000"], [0.01, "1 in 100"], [0.05, "1 in 20"]].map(([value, words]) => h("option", { value }, `${words} good parts`)));
  const problem = h("p.problem", { role: "alert", hidden: true });
  const propose = () => { name.value = unused(folder.value.replace(/\/(train\/)?good$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").replace(/^[^A-Za-z0-9]+|-+$/g, "").slice(0, 60) || "parts"); };
  rate.value = "0.01";
  folder.value = (folders.find((one) => /(^|\/)train\/good$/.test(one.name)) ?? folders.find((one) => one.name !== ".") ?? folders[0]).name;
  propose();
  folder.addEventListener("change", propose);
  const form = h("form.fit", {},
    h("label", { for: "folder" }, "Folder of good parts"), folder, h("label", { for: "name" }, "Name of the model"), name,
    h("label", { for: "method" }, "Method"), method, h("label", { for: "rate" }, "May be rejected wrongly"), rate,
    problem, h("button.main", {}, "Start"));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    problem.hidden = true;
    try {
      await post("v1/fits", { folder: folder.value, name: name.value, method: method.value, options: { false_alarm_rate: Number(rate.value) } });
      started();
    } catch (error) {
      problem.textContent = `Not started: ${error.message}`;
      problem.hidden = false;
    }
  });
  fill(root, h("p.lead", {}, "Choose a folder of pictures of good parts alone. Inspection goes on while the model learns."), form);
}

/** A name that no model has: parts, parts-2, … */
function unused(name) {
  const taken = new Set(state.models.map((model) => model.name));
  let free = name;
  for (let i = 2; taken.has(free); i += 1) free = `${name}-${i}`;
  return free;
}

function inWords(fit) {
  switch (fit.state) {
    case "waiting": return "waiting for the fit before it";
    case "done": return `done: ${fit.model} is in service${fit.skipped ? `; ${count(fit.skipped, "image")} could not be read` : ""}${fit.notes.map((note) => `; ${note}`).join("")}`;
    case "failed": return `failed: ${fit.error}`;
    case "cancelled": return "cancelled";
    default: {
      const left = fit.eta_seconds ? `, about ${duration(fit.eta_seconds)} left of this step` : "";
      const [stage, detail] = fit.stage.split(": "); // such as the loss of a training
      const steps = fit.total ? `, ${detail ? "step " : ""}${fit.done} of ${fit.total}` : "";
      return `${STAGES[stage] ?? stage}${steps}${detail ? `, ${detail}` : ""}${left}`;
    }
  }
}

/** { element, update(fit) }: what is there stays, so that the keyboard's place stays. */
function card(fit) {
  const bar = h("progress", { "aria-label": `Progress of ${fit.name}` });
  const words = h("p.words");
  const started = h("small");
  const cancel = h("button", { type: "button", onclick: () => { cancel.disabled = true; remove(`v1/fits/${fit.id}`).catch(() => { cancel.disabled = false; }); } }, "Cancel");
  const link = h("a.main", { href: "#/", onclick: () => chooseModel(fit.name).catch(() => {}) }, `Inspect with ${fit.name}`);
  const element = h("li.fitcard", {}, h("p", {}, h("b", {}, fit.name), ` from ${fit.folder === "." ? "everything" : fit.folder} `, started), bar, words, cancel, link);
  function update(now) {
    const active = isActive(now);
    element.className = `fitcard ${now.state}`;
    started.textContent = `started ${ago(now.when)}`;
    words.textContent = inWords(now);
    bar.hidden = cancel.hidden = !active;
    link.hidden = now.state !== "done";
    if (now.total) Object.assign(bar, { max: now.total, value: now.done });
    else bar.removeAttribute("value");
  }
  return { element, update };
}

function isActive(fit) {
  return fit.state === "waiting" || fit.state === "running";
}
