// Which of the chosen files belong together: a picture and its geometry, by folder and name as the service's own pairing.

const POINTS = /\.(npy|npz|pcd|ply|stl|pfm|csv)$/i;
const FOLDER_OF_COLOURS = /^(rgb|color|colour|colors|colours|texture)$/i;
const FOLDER_OF_GEOMETRY = /^(xyz|z|depths?|heights?|heightmaps?|depthmaps?|points|pointclouds?|clouds?|pcd|ply|range)$/i;
const NAMED_GEOMETRY = /[_.-](xyz|depth|height|z|points|cloud)$/i;
const NAMED_PICTURE = /[_-](rgb|color|colour|image)$/i;
// of two files that no name tells apart, the one more likely to be geometry: a picture is rarely a TIFF beside a JPEG
const DEEP = [/\.pgm$/i, /\.png$/i, /\.tiff?$/i];

export function isPoints(name) {
  return POINTS.test(name);
}

/** Files as { file, path } → { samples: [{ rgb, xyz }], alone: [{ file, lacks }] }. */
export function pairFiles(chosen) {
  const groups = new Map();
  for (const one of chosen) {
    const named = describe(one);
    if (!groups.has(named.key)) groups.set(named.key, []);
    groups.get(named.key).push(named);
  }
  const found = { samples: [], alone: [] };
  for (const group of groups.values()) pairGroup(group, found);
  if (!found.samples.length && found.alone.length === 2) { // one of each, whatever they are called
    const [pictures, geometries] = split(chosen.map(describe));
    if (pictures.length === 1 && geometries.length === 1) return { samples: [sample(pictures[0], geometries[0])], alone: [] };
  }
  return found;
}

function describe({ file, path }) {
  const parts = path.split("/");
  const folder = parts.at(-2) ?? "";
  const stem = parts.at(-1).replace(/\.[^.]*$/, "");
  const beside = FOLDER_OF_COLOURS.test(folder) || FOLDER_OF_GEOMETRY.test(folder);
  const isGeometry = POINTS.test(file.name) || FOLDER_OF_GEOMETRY.test(folder) || NAMED_GEOMETRY.test(stem);
  const isPicture = !isGeometry && (FOLDER_OF_COLOURS.test(folder) || NAMED_PICTURE.test(stem));
  const base = stem.replace(NAMED_GEOMETRY, "").replace(NAMED_PICTURE, "");
  return { file, key: [...parts.slice(0, beside ? -2 : -1), base].join("/"), isGeometry, isPicture, depth: DEEP.findIndex((ending) => ending.test(file.name)) };
}

/** Pictures and geometries; of two unknown files the deeper one is geometry. */
function split(group) {
  const unknown = group.filter((one) => !one.isGeometry && !one.isPicture).sort((a, b) => a.depth - b.depth);
  const pictures = group.filter((one) => one.isPicture), geometries = group.filter((one) => one.isGeometry);
  for (const one of unknown) (geometries.length || one !== unknown.at(-1) || one.depth < 0 || group.length < 2 ? pictures : geometries).push(one);
  return [pictures, geometries];
}

function pairGroup(group, found) {
  const [pictures, geometries] = split(group);
  while (pictures.length && geometries.length) found.samples.push(sample(pictures.shift(), geometries.shift()));
  for (const one of [...pictures, ...geometries]) found.alone.push({ file: one.file, lacks: missing(one) });
}

function missing({ isGeometry, isPicture, depth }) {
  if (isGeometry) return "picture";
  return isPicture || depth < 0 ? "geometry" : "picture or geometry"; // a PNG or TIFF alone may be either
}

function sample(picture, geometry) {
  return { rgb: picture.file, xyz: geometry.file };
}
