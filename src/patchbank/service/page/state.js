// What the page knows: models, the model in view, the newest inspections. Views hear of changes.

import { ApiError, get, post } from "./api.js";

const SHOWN = 60; // inspections of the list
const EVERY = 1500; // ms between two looks at the history

export const state = { models: [], model: "", items: [], loaded: false };
const events = new EventTarget();
const turns = new Map(); // by the id of an inspection: how often something was said about it
let asked = 0;

/** Hear of "models" and "items"; gives a function that ends it. */
export function on(name, listener) {
  events.addEventListener(name, listener);
  return () => events.removeEventListener(name, listener);
}

/** The model in view, or the first one where all are. */
export function currentModel() {
  return state.models.find((model) => model.name === state.model) ?? state.models[0] ?? null;
}

export function chooseModel(name) {
  state.model = name;
  remember("model", name);
  state.items = [];
  state.loaded = false;
  events.dispatchEvent(new Event("models"));
  events.dispatchEvent(new Event("items"));
  return refreshItems();
}

export async function refreshModels() {
  state.models = (await get("v1/models")).models;
  const wanted = remembered("model");
  state.model = state.models.some((model) => model.name === wanted) ? wanted : "";
  events.dispatchEvent(new Event("models"));
}

/** The newest inspections again; an answer that a later question has overtaken is dropped. */
export async function refreshItems() {
  const number = ++asked;
  const { items } = await get("v1/history", { model: state.model, limit: SHOWN });
  if (number !== asked) return;
  const same = state.loaded && fingerprint(items) === fingerprint(state.items);
  state.items = items;
  state.loaded = true;
  if (!same) events.dispatchEvent(new Event("items"));
}

function fingerprint(items) {
  return items.map((item) => `${item.id} ${item.verdict} ${item.note}`).join("\n");
}

/** Keep looking while the page can be seen. */
export async function follow() {
  for (;;) {
    if (!document.hidden) {
      try {
        if (!state.models.length) await refreshModels();
        await refreshItems();
      } catch (error) {
        if (!(error instanceof ApiError)) console.error(error); // the banner tells of a lost connection
      }
    }
    await wait(EVERY);
  }
}

/** Say something about an inspection ("confirmed", "overruled", null), as often as it takes until it is kept; null where
 * something newer was said meanwhile. */
export async function decide(item, verdict, note, onWait) {
  const path = `v1/history/${encodeURIComponent(item.id)}/verdict`;
  const turn = (turns.get(item.id) ?? 0) + 1;
  turns.set(item.id, turn);
  const isNewest = () => turns.get(item.id) === turn;
  const kept = await untilDone(() => post(path, { verdict, note }), onWait, isNewest);
  if (!isNewest()) return null;
  asked += 1; // an answer on its way is older than this
  state.items = state.items.map((other) => (other.id === kept.id ? kept : other));
  events.dispatchEvent(new Event("items"));
  return kept;
}

/** Try until it is done, or not wanted any more (null); `onWait(error, seconds)` hears of each pause. Errors that stay are
 * raised. */
export async function untilDone(action, onWait = () => {}, isWanted = () => true) {
  for (let pause = 1; isWanted(); pause = Math.min(10, pause * 2)) {
    try {
      return await action();
    } catch (error) {
      if (!(error instanceof ApiError) || !error.isTemporary) throw error;
      const seconds = error.retryAfter || pause;
      if (isWanted()) onWait(error, seconds);
      await wait(1000 * seconds);
    }
  }
  return null;
}

export function wait(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

/** Small choices of this browser; a browser that keeps nothing is no error. */
export function remember(name, value) {
  try {
    localStorage.setItem(`patchbank.${name}`, value);
  } catch {
    // private windows
  }
}

export function remembered(name) {
  try {
    return localStorage.getItem(`patchbank.${name}`);
  } catch {
    return null;
  }
}
