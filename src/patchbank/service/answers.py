"""The JSON of the API, as its OpenAPI document describes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

BIGGEST_ID = 2**63 - 1  # of SQLite

Verdict = Literal["confirmed", "overruled"]
Id = Annotated[int, Field(ge=0, le=BIGGEST_ID)]


class Problem(BaseModel):
    """Why a request was refused, in a sentence."""

    detail: str


class Region(BaseModel):
    """A suspicious place: `box` is left, top, right, bottom in pixels of the input, right and bottom exclusive."""

    box: list[int]
    area: int
    score: float | None


class Result(BaseModel):
    """What the model says about one image. `size` is height and width; a threshold of null is one that rejects nothing;
    `channels`, where a model looks at several: how far the patches at the peak are from good ones in each, in standard
    deviations of good ones."""

    id: int
    when: str
    model: str
    version: str
    name: str
    score: float | None
    p_value: float | None
    threshold: float | None
    is_anomalous: bool
    regions: list[Region]
    size: list[int]
    timings: dict[str, float]
    channels: dict[str, float | None]


class Inspected(Result):
    """A result, with the picture as a data URI where it was asked for."""

    overlay: str | None = None


class Failed(BaseModel):
    """An image that could not be inspected."""

    name: str
    error: str


class Unfinished(Failed):
    """An image that there was no time for, or no room in the history: the same image may be sent again."""

    unfinished: Literal[True]


class Inspection(BaseModel):
    results: list[Inspected | Unfinished | Failed]


class NothingInspected(Problem):
    """None of the images of a request could be inspected."""

    results: list[Failed] = []


class Item(Result):
    """A result of the history, with what a person decided. `geometry_kept`: whether its depths or points are still
    there."""

    verdict: Verdict | None
    note: str
    decided_at: str | None
    added_at: str | None
    image_kept: bool
    geometry_kept: bool


class Page(BaseModel):
    """Newest first; `next` is the `before` of the next page, null on the last."""

    items: list[Item]
    next: int | None


class Decision(BaseModel):
    """`confirmed`: the model was right; `overruled`: it was wrong; null: undecided again."""

    verdict: Verdict | None
    note: Annotated[str, Field(max_length=2000)] = ""


class ModelInfo(BaseModel):
    """`channels`: what it looks at; `needs`: the channels that a sample needs a file for, rgb, xyz or both."""

    name: str
    channels: list[str]
    needs: list[str]
    method: str
    backbone: str
    threshold: float | None
    false_alarm_rate: float
    map_threshold: float | None
    images: int
    file: str
    version: str
    loaded_at: str
    calibration_scores: list[float | None]


class ModelList(BaseModel):
    models: list[ModelInfo]


class Proposal(BaseModel):
    """False alarms that a person overruled and whose images are kept: what the model could learn from."""

    items: list[Item]


class Chosen(BaseModel):
    ids: Annotated[list[Id], Field(min_length=1, max_length=100)]


class Added(BaseModel):
    """What became of the model: its new threshold, and the entry of its history. `added`: without those that it had
    learned from already."""

    added: list[int]
    threshold: float | None
    entry: dict[str, Any]
    backup: str | None
    model: ModelInfo


class Quantiles(BaseModel):
    """Of image scores."""

    count: int
    q05: float | None
    q25: float | None
    q50: float | None
    q75: float | None
    q95: float | None


class Day(Quantiles):
    day: str
    rejected: int


class Drift(BaseModel):
    """Scores by day and of the last images beside those of the calibration; `warning` where either differ."""

    calibration: Quantiles
    days: list[Day]
    last: Quantiles
    distance: float | None
    p_value: float | None
    warning: str | None
    threshold: float | None


class Explained(BaseModel):
    """`explanation` as `patchbank explain` writes it; `picture` is a PNG as a data URI."""

    explanation: dict[str, Any]
    picture: str


class Heights(BaseModel):
    """Millimetres above the background of a part, or above the plane through it where it has none (`is_background`).
    A cell is `pixels` wide and high. `data`: rows × columns little-endian 16-bit whole numbers in base64; a height is
    lowest_mm + (number − 1) × step_mm, and 0 is no point."""

    rows: int
    columns: int
    pixels: int
    lowest_mm: float
    step_mm: float
    is_background: bool
    data: str


class State(BaseModel):
    status: str
