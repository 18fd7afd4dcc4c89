// The suspicious places of a picture beside the nearest patches of good parts.

import { get } from "./api.js";
import { fill, h, number } from "./dom.js";

/** Fills a section; asked for when it is opened, because the service has to look again. */
export function explanation(root, item) {
  const inside = h("div", {}, h("p.hint", {}, "Comparing …"));
  const details = h("details", {}, h("summary", {}, "Nearest good patches"), inside);
  details.addEventListener("toggle", () => load(inside, item), { once: true });
  fill(root, details);
  details.open = item.is_anomalous;
}

async function load(root, item) {
  try {
    fill(root, content(await get(`v1/history/${encodeURIComponent(item.id)}/explain?whole=false`)));
  } catch (error) {
    fill(root, h("p.hint", {}, `No comparison: ${error.message}`));
  }
}

function content({ explanation, picture }) {
  const places = explanation.places.filter((place) => place.neighbours.length);
  if (!places.length) return [h("p.hint", {}, "This method keeps no good patches to compare with.")];
  return [
    h("a", { href: picture, download: "explanation.png", title: "Keep the picture" }, h("img", { src: picture, alt: "The suspicious places, each beside the nearest patches of good parts" })),
    h("ol.hidden", {}, places.map((place) => h("li", {}, `At ${place.x}, ${place.y}: nearest${place.channel ? ` by ${place.channel}` : ""} is ${place.neighbours[0].image}, at a distance of ${number(place.neighbours[0].distance)}.`))),
  ];
}
