"""The report of an audit: a single HTML file; the words are in `audit.html.j2`."""

from __future__ import annotations

from pathlib import Path

from patchbank._system.files import replacing
from patchbank.audit import SUSPICIOUS, Audit
from patchbank.errors import DatasetError, ImageError, OnError, warn
from patchbank.pictures.drawing import read_again, strip
from patchbank.pictures.explanation import explanation_picture, finder_of
from patchbank.report.html import environment, inline
from patchbank.shape.shown import shown

_PICTURES_BUDGET = 5_000_000  # bytes, all together
_PAIRS = 12


def write_audit(found: Audit, folder: Path, path: Path, top: int, *, on_error: OnError = warn) -> None:
    """Write the report to `path`: the `top` strangest images drawn with the map they get from the others. `on_error`
    hears of images that have gone since they were looked over; they are not drawn."""
    detector = found.model
    find = finder_of(detector)
    number = {image.name: i for i, image in enumerate(detector.scorer.refs) if not image.angle}
    share = _PICTURES_BUDGET // (top + _PAIRS)
    figures = []
    for rank, suspect in enumerate(found.ranked[:top], 1):
        try:
            (source,) = detector.gather(Path(suspect.image))
            explanation = detector.explain(source, count=5, without_image=number[suspect.image])
            seen = read_again(source, explanation.prediction.map.shape, detector.values_)
        except (ImageError, DatasetError) as error:
            on_error(suspect.image, error)
            continue
        picture = explanation_picture(seen, explanation, find)
        figures.append({"rank": rank, "suspect": suspect, **inline(picture, share)})
    pairs = []
    for a, b, grey in found.duplicates[:_PAIRS]:
        try:
            both = [shown(source, detector.values_).picture for source in detector.gather([Path(a), Path(b)])]
        except (ImageError, DatasetError) as error:
            on_error(a, error)
            continue
        pairs.append({"a": a, "b": b, "grey": grey, **inline(strip(both, 320), share)})
    page = (
        environment()
        .get_template("audit.html.j2")
        .render(audit=found, folder=str(folder), figures=figures, pairs=pairs, limit=SUSPICIOUS)
    )
    with replacing(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))
