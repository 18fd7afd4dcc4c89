// False alarms that a person overruled: proposed as good parts for the model to learn, and taught with one button.

import { get, post } from "./api.js";
import { fill, h, number } from "./dom.js";
import { address, layers } from "./line.js";
import { currentModel, on, refreshModels } from "./state.js";
import { clock, count } from "./words.js";

export const title = "False alarms";

export function open(root) {
  const body = h("div", {}, h("p.empty", {}, "Loading …"));
  const result = h("p.answer", { role: "status", hidden: true });
  const heading = h("h1", {}, title);
  let round = 0;

  async function load() {
    const mine = ++round;
    const model = currentModel();
    if (!model) return;
    heading.textContent = `False alarms of ${model.name}`;
    try {
      const { items } = await get(path(model));
      if (mine === round) show(body, model, items, teach);
    } catch (error) {
      if (mine === round) fill(body, h("p.empty", {}, `The false alarms cannot be shown: ${error.message}. `, h("button", { type: "button", onclick: load }, "Try again")));
    }
  }

  async function teach(model, ids, button) {
    button.disabled = true;
    tell(result, `Teaching ${count(ids.length, "part")} to ${model.name} …`);
    try {
      tell(result, inWords(await post(path(model), { ids }), model, ids.length));
    } catch (error) {
      button.disabled = false;
      if (error.status > 0 && error.status < 500) {
        tell(result, `The model is unchanged: ${error.message}.`);
        return;
      }
      tell(result, `It is not known whether it learned: ${error.message}. Teaching the same parts again does no harm.`);
    }
    await refreshModels().catch(() => {}); // its threshold may have moved; the banner tells of a lost connection
  }

  const stop = on("models", load);
  fill(root, heading,
    h("p.lead", {}, "Rejected parts that somebody overruled. Untick what is no good example; the others become part of what the model knows as good."), result, body);
  load();
  return { close() { round += 1; stop(); } };
}

function path(model) {
  return `v1/models/${encodeURIComponent(model.name)}/feedback`;
}

function inWords({ added, threshold }, model, asked) {
  const fewer = added.length < asked ? ` (${asked - added.length} were known already)` : "";
  return `${model.name} learned ${count(added.length, "part")}${fewer}. Its threshold was ${number(model.threshold)} and is ${number(threshold)} now. The model file from before is kept beside it.`;
}

function tell(element, words) {
  element.textContent = words;
  element.hidden = false;
}

function show(body, model, items, teach) {
  if (!items.length) {
    fill(body, h("p.empty", {}, `No false alarms wait for ${model.name}. Overrule a rejected part (`, h("kbd", {}, "O"), ") and it appears here."));
    return;
  }
  const boxes = items.map((item) => h("input", { type: "checkbox", value: item.id, checked: true, "aria-label": `Teach ${item.name}` }));
  const button = h("button.main", { type: "button" });
  const chosen = () => boxes.flatMap((box, i) => (box.checked ? [items[i].id] : []));
  const update = () => {
    button.textContent = `Teach ${count(chosen().length, "part")} to ${model.name}`;
    button.disabled = !chosen().length;
  };
  button.addEventListener("click", () => teach(model, chosen(), button));
  const cards = items.map((item, i) => h("li", {}, h("label.card", {}, h("span.photo", {}, layers(item, 0.5)), h("span.pick", {}, boxes[i], " ", h("span.name", {}, item.name)),
    h("small", {}, `score ${number(item.score)} of ${number(item.threshold)}, ${clock(item.when)}`), item.note ? h("small.note", {}, `“${item.note}”`) : null), h("a", { href: address(item) }, "Look at it")));
  for (const box of boxes) box.addEventListener("change", update);
  fill(body, h("ul.cards", {}, cards), button);
  update();
}
