// Elements from data. Text always goes in as text, never as HTML: file names and notes are untrusted.

const SVG = "http://www.w3.org/2000/svg";

/** h("p.note", {title: "…", onclick: f}, "text", child, …): null children are left out. */
export function h(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  return build(document.createElement(tag), classes, attributes, children);
}

/** The same for SVG. */
export function s(kind, attributes = {}, ...children) {
  const [tag, ...classes] = kind.split(".");
  return build(document.createElementNS(SVG, tag), classes, attributes, children);
}

function build(element, classes, attributes, children) {
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** Replace what is in an element. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A picture that says so where it cannot be loaded (a closed history, a lost connection). */
export function picture(kind, src, alt) {
  const image = h(kind, { src, alt, decoding: "async", draggable: "false", loading: "lazy" });
  image.addEventListener("error", () => image.classList.add("unloaded"));
  return image;
}

/** The sign of a verdict: an octagon with a cross, or a disc with a tick. Word and colour stand beside it. */
export function sign(rejected) {
  const shape = rejected
    ? [s("polygon", { points: "30,3 70,3 97,30 97,70 70,97 30,97 3,70 3,30" }), s("path.mark", { d: "M33 33 67 67M67 33 33 67" })]
    : [s("circle", { cx: 50, cy: 50, r: 47 }), s("path.mark", { d: "M27 53 44 69 74 34" })];
  return s("svg.sign", { viewBox: "0 0 100 100", "aria-hidden": "true" }, shape);
}

/** A triangle with an exclamation mark: look here. */
export function warningSign() {
  return s("svg.sign", { viewBox: "0 0 100 100", "aria-hidden": "true" }, s("path", { d: "M50 6 97 92H3z" }), s("path.mark", { d: "M50 38v24M50 78v.1" }));
}

/** Sign and word, in the verdict's colour. */
export function badge(rejected) {
  return h(`span.badge.${rejected ? "rejected" : "accepted"}`, {}, sign(rejected), rejected ? "REJECTED" : "ACCEPTED");
}

/** What a person said about it. */
export function decision(item) {
  if (!item.verdict) return null;
  const words = item.verdict === "confirmed" ? "✓ confirmed" : item.is_anomalous ? "✗ overruled: was good" : "✗ overruled: was bad";
  return h(`span.decision.${item.verdict}`, { title: item.note || null }, words);
}

/** A score on the scale of the heat colours: from nothing to twice the threshold, which stands in the middle. */
export function scoreBar(item, threshold = item.threshold) {
  const bar = h("span.fill");
  bar.style.inlineSize = `${100 * share(item.score, threshold)}%`;
  return h(
    `span.scorebar.${item.score > threshold ? "rejected" : "accepted"}`,
    { role: "img", "aria-label": `score ${number(item.score)}, threshold ${number(threshold)}` },
    bar, h("span.tick"),
  );
}

function share(score, threshold) {
  if (!(threshold > 0) || !Number.isFinite(threshold)) return score > threshold ? 1 : 0;
  return Math.min(1, Math.max(0.01, score / (2 * threshold)));
}

/** Four significant digits, without an exponent where it can be avoided. */
export function number(value) {
  if (value === null || value === undefined) return "∞";
  if (value === 0 || !Number.isFinite(value)) return value === 0 ? "0" : "∞";
  const digits = Math.abs(value) >= 1000 ? value.toFixed(0) : value.toPrecision(4);
  return digits.includes("e") ? String(value) : digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
}
