// Images dropped on the page, or chosen: sent a few at a time until each has a result, whatever the service is busy with.
// For a model that looks at geometry a sample is a picture and its geometry, which are chosen together.

import { ApiError, inspect } from "./api.js";
import { fill, h } from "./dom.js";
import { isPoints, pairFiles } from "./pairing.js";
import { currentModel, refreshItems, untilDone } from "./state.js";
import { count } from "./words.js";

const AT_ONCE = 4, BYTES = 12e6; // of one request, unless a single image is larger
const IMAGE = /\.(a?png|jpe?g?|jfif|jif|mpo|bmp|dib|tiff?|webp|gif|p[bgnpf]m|tga|icb|vda|vst|jp2|j2[ck]|jp[cfx]|avif|pcx|sgi|qoi)$/i;
const MASKS = /(^|\/)(gt|ground_truth|masks?)\/[^/]*$/i; // of data sets: no pictures of parts
const PICTURES = "image/*,.tif,.tiff,.pgm,.ppm", GEOMETRY = ",.npy,.npz,.pcd,.ply,.stl,.pfm,.csv";
const queue = []; // samples: files by field
const tally = { total: 0, done: 0, rejected: 0, skipped: 0, errors: [], waiting: "", running: false };
const panel = document.getElementById("uploads");

/** Anything dropped anywhere on the page. */
export function acceptDrops() {
  const shade = document.getElementById("drop");
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    shade.hidden = false;
  });
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) shade.hidden = true; });
  window.addEventListener("drop", async (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    shade.hidden = true;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const files = entries.length ? (await Promise.all(entries.map(filesOf))).flat() : [...event.dataTransfer.files].map(asChosen);
    enqueue(files, entries.some((entry) => entry.isDirectory));
  });
  window.addEventListener("beforeunload", (event) => { if (tally.running) event.preventDefault(); });
}

/** Buttons for who does not drag. */
export function chooseImages() {
  const chooser = (words, attributes, fromFolder) => {
    const input = h("input.hidden", { type: "file", multiple: true, tabindex: -1, "aria-hidden": "true", "aria-label": words, ...attributes });
    input.addEventListener("change", () => {
      enqueue([...input.files].map(asChosen), fromFolder);
      input.value = "";
    });
    const choose = () => {
      if (!fromFolder) input.accept = PICTURES + (looksAtGeometry() ? GEOMETRY : "");
      input.click();
    };
    return [input, h("button", { type: "button", onclick: choose }, words)];
  };
  return h("span.choosers", {}, chooser("Inspect images …", { accept: PICTURES }, false), chooser("Inspect a folder …", { webkitdirectory: true }, true));
}

function looksAtGeometry() {
  return currentModel()?.needs?.includes("xyz") ?? false;
}

/** A file with its place in what was chosen. */
function asChosen(file) {
  return { file, path: file.webkitRelativePath || file.name };
}

/** All files below a dropped folder, or the file. */
async function filesOf(entry) {
  if (entry.isFile) return [{ file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path: entry.fullPath }];
  const reader = entry.createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject)); // a hundred at a time
    if (!some.length) break;
    entries.push(...some);
  }
  return (await Promise.all(entries.map(filesOf))).flat();
}

/** Files of a folder that are no images are left out, and counted; a file that was chosen itself is sent. */
function enqueue(chosen, fromFolder) {
  const geometry = looksAtGeometry();
  const isTaken = ({ file: { name }, path }) => !name.startsWith(".") && (geometry ? (IMAGE.test(name) || isPoints(name)) && !MASKS.test(path) : IMAGE.test(name));
  const taken = fromFolder ? chosen.filter(isTaken) : chosen;
  if (!tally.running) Object.assign(tally, { total: 0, done: 0, rejected: 0, skipped: 0, errors: [] });
  tally.skipped += chosen.length - taken.length;
  const { samples, alone } = asSamples(taken);
  for (const { file, lacks } of alone) tally.errors.push({ name: file.name, error: `has no ${lacks} beside it: choose or drop both files together` });
  tally.total += samples.length + alone.length;
  tally.done += alone.length;
  queue.push(...samples);
  show();
  if (!tally.running) work();
}

/** What the model in view takes: pictures, geometry alone, or both paired. */
function asSamples(chosen) {
  const needs = currentModel()?.needs ?? ["rgb"];
  if (needs.length > 1) return pairFiles(chosen);
  return { samples: chosen.map(({ file }) => ({ [needs[0] === "xyz" ? "xyz" : "images"]: file })), alone: [] };
}

function sizeOf(sample) {
  return Object.values(sample).reduce((sum, file) => sum + file.size, 0);
}

function nameOf(sample) {
  return Object.values(sample)[0].name;
}

async function work() {
  tally.running = true;
  while (queue.length) {
    const batch = nextBatch();
    const results = await send(batch);
    tally.waiting = "";
    tally.done += batch.length;
    for (const result of results) {
      if (result.error) tally.errors.push(result);
      else if (result.is_anomalous) tally.rejected += 1;
    }
    show();
    refreshItems().catch(() => {}); // the banner tells of a lost connection
  }
  tally.running = false;
  show();
}

function nextBatch() {
  let [many, bytes] = [1, sizeOf(queue[0])];
  while (many < Math.min(AT_ONCE, queue.length) && bytes + sizeOf(queue[many]) <= BYTES) bytes += sizeOf(queue[many++]);
  return queue.splice(0, many);
}

async function send(samples) {
  const model = currentModel();
  if (!model) return samples.map((sample) => ({ name: nameOf(sample), error: "no model is loaded" }));
  const finished = [];
  let left = samples;
  const attempt = async () => {
    const results = await inspect(model.name, left);
    finished.push(...results.filter((result) => !result.unfinished));
    left = left.filter((_, i) => results[i].unfinished);
    if (left.length) throw new ApiError(results.find((result) => result.unfinished).error, 503);
  };
  try {
    await untilDone(attempt, (error) => {
      tally.waiting = `${error.message}; trying again …`;
      show();
    });
    return finished;
  } catch (error) {
    if (left.length === 1) return [...finished, { name: nameOf(left[0]), error: error.message }];
    return [...finished, ...(await Promise.all(left.map((sample) => send([sample])))).flat()]; // one bad file must not take its neighbours along
  }
}

function show() {
  const { total, done, errors, running } = tally;
  panel.hidden = !total && !tally.skipped;
  const words = running ? `Inspecting: ${done} of ${total}` : `${count(done - errors.length, "image")} inspected, ${tally.rejected} rejected`;
  fill(
    panel,
    h("p", { role: "status" }, h("b", {}, words), errors.length ? `, ${errors.length} not` : ""),
    h("progress", { max: total || 1, value: done, "aria-label": "Images inspected" }),
    tally.waiting ? h("p.hint", {}, tally.waiting) : null,
    tally.skipped ? h("p.hint", {}, `${count(tally.skipped, "file")} without an image's ending left out`) : null,
    errors.length ? h("ul.errors", {}, errors.slice(-20).map((error) => h("li", {}, h("b", {}, error.name), ` ${error.error}`))) : null,
    running ? null : h("button", { type: "button", onclick: () => { panel.hidden = true; } }, "Close"),
  );
}
