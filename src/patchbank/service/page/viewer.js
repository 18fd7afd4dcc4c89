// A picture with layers that can be enlarged and moved: wheel, keys, buttons, drag, two fingers.

import { h, picture, s } from "./dom.js";
import { kept } from "./line.js";

const MOST = 16;

/** { element, setOpacity, showRegions, zoom, reset } for one inspection. */
export function viewer(item) {
  const heat = item.image_kept ? picture("img.heat", kept(item, "v1/history", "/heat"), "") : null;
  const regions = outlines(item);
  const photo = item.image_kept ? picture("img.base", kept(item, "v1/history", "/image"), `Picture of ${item.name}`) : h("p.empty", {}, "This picture is no longer kept.");
  const stage = h("div.stage", {}, [photo, heat, regions]);
  stage.style.aspectRatio = `${item.size[1]} / ${item.size[0]}`;
  stage.style.setProperty("--ratio", item.size[1] / item.size[0]);
  const element = h("div.viewer", {}, stage);
  const view = { scale: 1, x: 0, y: 0 };

  function apply() {
    const [width, height] = [stage.offsetWidth, stage.offsetHeight];
    view.x = Math.min(0, Math.max(width * (1 - view.scale), view.x));
    view.y = Math.min(0, Math.max(height * (1 - view.scale), view.y));
    for (const layer of stage.children) layer.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.scale})`;
    element.classList.toggle("enlarged", view.scale > 1);
  }

  /** Enlarge by a factor around a point of the stage (its middle unless said otherwise). */
  function zoom(factor, at = [stage.offsetWidth / 2, stage.offsetHeight / 2]) {
    const scale = Math.min(MOST, Math.max(1, view.scale * factor));
    view.x = at[0] - ((at[0] - view.x) * scale) / view.scale;
    view.y = at[1] - ((at[1] - view.y) * scale) / view.scale;
    view.scale = scale;
    apply();
  }

  function reset() {
    Object.assign(view, { scale: 1, x: 0, y: 0 });
    apply();
  }

  function move(dx, dy) {
    view.x += dx;
    view.y += dy;
    apply();
  }

  stage.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), inside(stage, event));
  }, { passive: false });
  stage.addEventListener("dblclick", (event) => (view.scale > 1 ? reset() : zoom(3, inside(stage, event))));
  followPointers(stage, move, zoom);
  return {
    element, zoom, reset,
    setOpacity: (value) => { if (heat) heat.style.opacity = value; },
    showRegions: (shown) => regions.toggleAttribute("hidden", !shown),
  };
}

function inside(stage, event) {
  const box = stage.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
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
    if (other) zoom(distance(now, other) / Math.max(1, distance(before, other)), other);
    else move(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, (event) => pointers.delete(event.pointerId));
}

function distance(a, b) {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
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
