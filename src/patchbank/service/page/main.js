// The frame around the views: which one is open, the model in view, keys, help, the connection.

import { onConnection, post } from "./api.js";
import * as alarms from "./alarms.js";
import * as drift from "./drift.js";
import { fill, h } from "./dom.js";
import * as fit from "./fit.js";
import * as image from "./image.js";
import * as line from "./line.js";
import { chooseModel, follow, on, state } from "./state.js";
import { acceptDrops } from "./upload.js";
import * as whatIf from "./what-if.js";
import { clock } from "./words.js";

// A view is a module with `title` and `open(root, argument)`, which gives { close, keys }.
const VIEWS = { "": line, image, "what-if": whatIf, alarms, drift, fit };
const main = document.getElementById("main");
const help = document.getElementById("help");
let view = null;

function route() {
  const [name, argument = ""] = location.hash.replace(/^#\/?/, "").split("/");
  const module = VIEWS[name] ?? line;
  view?.close?.();
  document.title = `${module.title} · patchbank`;
  for (const link of document.querySelectorAll("nav a")) {
    const target = link.hash.replace(/^#\/?/, "");
    const here = target === name || (name === "image" && target === "");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  main.className = `view-${name || "line"}`;
  fill(main);
  window.scrollTo(0, 0);
  view = module.open(main, decodeURIComponent(argument));
}

function showModels() {
  const select = document.getElementById("model");
  const all = state.models.length > 1 ? [h("option", { value: "" }, "all models")] : [];
  fill(select, all, state.models.map((model) => h("option", { value: model.name }, model.name)));
  select.value = state.models.length > 1 ? state.model : state.models[0]?.name ?? "";
  select.disabled = state.models.length < 2;
}

/** Keys go to the open view, but not while somebody writes; a slider keeps its arrows. */
function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
  const target = event.target;
  const writes = target.matches?.("textarea, select, input:not([type=range]):not([type=checkbox])");
  if (event.key === "Escape" && writes) target.blur();
  if (writes || (target.matches?.("input[type=range]") && /^(Arrow|Home|End|Page)/.test(event.key))) return;
  if (event.key === "?") {
    event.preventDefault();
    help.showModal();
    return;
  }
  const action = view?.keys?.[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action(event);
}

let lost = null;
function onConnected(answers) {
  const banner = document.getElementById("connection");
  if (answers) {
    lost = null;
    banner.hidden = true;
    return;
  }
  lost ??= new Date();
  const words = `No connection to the service since ${clock(lost)}. What you see is from before; nothing is lost, trying again …`;
  if (banner.hidden || banner.textContent !== words) banner.textContent = words;
  banner.hidden = false;
}

onConnection(onConnected);
on("models", showModels);
document.getElementById("model").addEventListener("change", (event) => {
  chooseModel(event.target.value).catch(() => {}); // the banner tells
  route();
});
document.getElementById("help-button").addEventListener("click", () => help.showModal());
document.getElementById("sign-out").addEventListener("click", () => post("page/logout", {}).then(() => location.reload(), () => {}));
document.addEventListener("keydown", onKey);
window.addEventListener("hashchange", route);
acceptDrops();
route();
follow();
