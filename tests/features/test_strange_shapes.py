"""Whatever the geometry: a model or a sentence, never a crash, and no score that is not a number."""

from __future__ import annotations

import warnings

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchbank import PatchCore
from patchbank.errors import PatchbankError
from patchbank.shape import DepthFormat, Pitch

SIDE = 48


@st.composite
def depths(draw: st.DrawFn) -> np.ndarray:
    """H×W depths: flat, tilted, stepped or noisy ones of any size, with holes of any kind."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    scale = draw(st.sampled_from([1e-6, 1e-3, 1.0, 30.0, 1e5, 1e9]))
    values = draw(st.sampled_from([0.0, 1.0, 500.0])) + draw(st.sampled_from([0.0, 0.3, 5.0])) * x
    kind = draw(st.sampled_from(["flat", "step", "noise", "bowl", "spikes"]))
    if kind == "step":
        values = values + (y > 0.5) * draw(st.sampled_from([0.01, 1.0, 100.0]))
    elif kind == "noise":
        values = values + rng.standard_normal((SIDE, SIDE))
    elif kind == "bowl":
        values = values + 4 * (x - 0.5) ** 2
    elif kind == "spikes":
        values = values + 1e4 * (rng.random((SIDE, SIDE)) < 0.01)
    values = (values * scale).astype(np.float32)
    share = draw(st.sampled_from([0.0, 0.01, 0.5, 0.9, 0.99, 1.0]))
    holes = rng.random((SIDE, SIDE)) < share
    if draw(st.booleans()):
        top, left = rng.integers(0, SIDE, 2)
        holes[top : top + SIDE // 2, left : left + SIDE // 2] = True
    values[holes] = draw(st.sampled_from([0.0, np.nan, np.inf, -np.inf, -32768.0]))
    return values


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    first=depths(), second=depths(), third=depths(),
    channels=st.sampled_from(
        [("curvature", "normals"), ("rgb", "curvature"), ("height", "fpfh"), ("valid", "shading"), ("relief", "rgb")]
    ),
    camera=st.sampled_from([None, Pitch(0.1, 0.1)]),
    axis=st.sampled_from(["depth", "height"]),
)  # fmt: skip
def test_a_model_or_a_sentence(
    first: np.ndarray, second: np.ndarray, third: np.ndarray, channels: tuple[str, ...], camera: Pitch | None, axis: str
) -> None:
    rgb = np.full((SIDE, SIDE, 3), 90, np.uint8)
    samples = [{"rgb": rgb, "xyz": each} for each in (first, second, third)]
    model = PatchCore(
        image_size=32, threads=1, channels=channels, bank_size=40, depth=DepthFormat(camera=camera, axis=axis)
    )
    failed: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=UserWarning)
        warnings.simplefilter("error", category=RuntimeWarning)
        try:
            model.fit(samples[:2], on_error=lambda name, error: failed.append(str(error)))
        except PatchbankError:
            return
        found = list(model.predict_many(samples, on_error=lambda name, error: failed.append(str(error))))
    assert all(sentence.startswith("image ") and "\n" not in sentence for sentence in failed)
    for prediction in found:
        assert np.isfinite(prediction.score)
        assert np.isfinite(prediction.map).all()
        assert all(np.isfinite(value) for value in prediction.channels.values())
