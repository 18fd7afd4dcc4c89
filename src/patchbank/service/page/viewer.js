// A picture with layers that can be enlarged and moved: wheel, keys, buttons, drag, two fingers. A part with geometry has
// three panes of the same place, which move together.

import { h, picture, s } from "./dom.js";
import { kept } from "./line.js";

const MOST = 16;

/** { element, setOpacity, showRegions, show, onPointer, zoom, reset } for one inspection; `both`: it has a picture and
 * geometry. */
export function viewer(item, both = false) {
  const all = both ? panes(item) : [pane(item, { base: "/image", words: "Picture" })];
  const element = h("div.viewer", {}, all.map((pane) => pane.figure));
  const place = { scale: 1, x: 0, y: 0 }; // x and y in widths and heights of a pane
  const listeners = new Set();
  let opacity = 1, shown = "";

  function apply() {
    place.x = Math.min(0, Math.max(1 - place.scale, place.x));
    place.y = Math.min(0, Math.max(1 - place.scale, place.y));
    for (const { stage, layers } of all) {
      const move = `translate(${place.x * stage.offsetWidth}px, ${place.y * stage.offsetHeight}px) scale(${place.scale})`;
      for (const layer of layers) layer.style.transform = move;
    }
    element.classList.toggle("enlarged", place.scale > 1);
  }

  /** Enlarge by a factor around a point of a stage (its middle unless said otherwise). */
  function zoom(factor, at = [0.5, 0.5]) {
    const scale = Math.min(MOST, Math.max(1, place.scale * factor));
    place.x = at[0] - ((at[0] - place.x) * scale) / place.scale;
    place.y = at[1] - ((at[1] - place.y) * scale) / place.scale;
    place.scale = scale;
    apply();
  }

  function reset() {
    Object.assign(place, { scale: 1, x: 0, y: 0 });
    apply();
  }

  function move(dx, dy) {
    place.x += dx;
    place.y += dy;
    apply();
  }

  /** Tell where the pointer is, in pixels of the image, and mark that place in the other panes; null outside. */
  function point(stage, at) {
    const [height, width] = item.size;
    const pixel = at && [Math.floor(((at[0] - place.x) / place.scale) * width), Math.floor(((at[1] - place.y) / place.scale) * height)];
    const inImage = pixel && pixel[0] >= 0 && pixel[1] >= 0 && pixel[0] < width && pixel[1] < height;
    for (const pane of all) {
      if (!pane.mark) continue;
      pane.mark.hidden = !inImage || pane.stage === stage;
      if (inImage) Object.assign(pane.mark.style, { left: `${100 * at[0]}%`, top: `${100 * at[1]}%` });
    }
    for (const listener of listeners) listener(inImage ? pixel : null);
  }

  function fade() {
    for (const { heat, hasMap } of all) if (heat) heat.style.opacity = hasMap(shown) ? opacity : 0;
  }

  for (const { stage } of all) {
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 400), inside(stage, event));
    }, { passive: false });
    stage.addEventListener("dblclick", (event) => (place.scale > 1 ? reset() : zoom(3, inside(stage, event))));
    stage.addEventListener("pointermove", (event) => point(stage, inside(stage, event)));
    stage.addEventListener("pointerleave", () => point(stage, null));
    followPointers(stage, move, zoom);
  }
  return {
    element, zoom, reset,
    setOpacity(value) {
      opacity = value;
      fade();
    },
    showRegions(visible) { for (const { regions } of all) regions.toggleAttribute("hidden", !visible); },
    /** "side" for all panes, "picture" or "shape" for one with the map over it. */
    show(view) {
      shown = view;
      for (const pane of all) pane.figure.hidden = !pane.isIn(view);
      element.classList.toggle("side", view === "side");
      fade();
      apply();
    },
    onPointer(listener) { listeners.add(listener); },
  };
}

/** Picture, shape and map of a part with geometry. */
function panes(item) {
  return [
    pane(item, { base: "/image", words: "Picture", title: "Picture", isIn: (view) => view === "side", hasMap: () => false }),
    pane(item, { base: "/relief", words: "Shaded surface", title: "Height", isIn: (view) => view !== "picture", hasMap: (view) => view === "shape" }),
    pane(item, { base: "/image", words: "Map over the picture", title: "Map", isIn: (view) => view !== "shape" }),
  ];
}

function pane(item, { base, words, title = "", isIn = () => true, hasMap = () => true }) {
  const heat = item.image_kept ? picture("img.heat", kept(item, "v1/history", "/heat"), "") : null;
  const regions = outlines(item);
  const photo = item.image_kept ? picture("img.base", kept(item, "v1/history", base), `${words} of ${item.name}`) : h("p.empty", {}, "This picture is no longer kept.");
  const mark = title ? h("span.mark", { hidden: true, "aria-hidden": "true" }) : null;
  const layers = [photo, heat, regions].filter(Boolean);
  const stage = h("div.stage", {}, layers, mark);
  stage.style.aspectRatio = `${item.size[1]} / ${item.size[0]}`;
  stage.style.setProperty("--ratio", item.size[1] / item.size[0]);
  const figure = title ? h("figure", { "data-pane": title.toLowerCase() }, h("figcaption", {}, title), stage) : stage;
  return { figure, stage, layers, heat, regions, mark, isIn, hasMap };
}

/** Where an event is in a stage, as shares of its width and height. */
function inside(stage, event) {
  const box = stage.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
}

/** One pointer moves the picture, two enlarge it. */
function followPointers(stage, move, zoom) {
  const pointers = new Map();
  stage.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, inside(stage, event));
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = inside(stage, event);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) zoom(distance(stage, now, other) / Math.max(1, distance(stage, before, other)), other);
    else move(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
}

/** In pixels of the screen. */
function distance(stage, a, b) {
  return Math.hypot((a[0] - b[0]) * stage.offsetWidth, (a[1] - b[1]) * stage.offsetHeight);
}

/** The regions' boxes with their numbers, in pixels of the image. */
function outlines(item) {
  const [height, width] = item.size;
  const boxes = item.regions.map(({ box: [left, top, right, bottom] }) => {
    const place = { x: left, y: top, width: right - left, height: bottom - top };
    return [s("rect.under", place), s("rect.over", place)];
  });
  return s("svg.regions", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" }, boxes);
}
