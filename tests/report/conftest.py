"""A made-up part, predictions on it and an evaluation of a hundred such parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from patchbank.evaluation.results import Case, Evaluation, Panel
from patchbank.pictures.drawing import overlay
from patchbank.prediction import Prediction, Region

THRESHOLD = 18.0
ODD_NAME = 'hole <b>&"$x_1$'


def _photo(height: int, width: int) -> NDArray[np.uint8]:
    """A part with some texture and colour, RGB."""
    rng = np.random.default_rng(0)
    plane = np.linspace(60, 180, width)[None, :, None] + rng.normal(0, 12, (height, width, 1))
    return np.clip(plane + np.array([20, 0, -20]), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_photo() -> Callable[[int, int], NDArray[np.uint8]]:
    return _photo


@pytest.fixture(scope="session")
def make_prediction() -> Callable[..., Prediction]:
    def make(anomaly_map: NDArray[Any], threshold: float = THRESHOLD, **changes: Any) -> Prediction:
        score = float(np.nanmax(anomaly_map, initial=0.0))
        rows, columns = np.nonzero(anomaly_map > threshold)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) if rows.size else None
        fields: dict[str, Any] = {
            "path": "crack/0042.png",
            "score": score,
            "p_value": 0.004,
            "threshold": threshold,
            "is_anomalous": score > threshold,
            "map": anomaly_map.astype(np.float32),
            "map_threshold": threshold,
            "regions": (Region(tuple(map(int, box)), rows.size, score),) if box else (),
        }
        return Prediction(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def make_evaluation(make_prediction: Callable[..., Prediction]) -> Callable[..., Evaluation]:
    def panel(case: Case) -> Panel:
        anomaly_map = np.full((90, 120), 9.0)
        anomaly_map[30:50, 40:70] = case.score
        prediction = make_prediction(anomaly_map, path=case.path, score=case.score)
        return Panel(case, overlay(_photo(90, 120), prediction, panel_width=240))

    def make(
        n_good: int = 40, n_defective: int = 30, shift: float = 12.0, curves: bool = True, **metrics: Any
    ) -> Evaluation:
        rng = np.random.default_rng(3)
        cases = [
            Case(f"test/good/{i}.png", "good", float(s), 0.4, bool(s > THRESHOLD))
            for i, s in enumerate(rng.normal(13, 2.5, n_good))
        ]
        for i, s in enumerate(rng.normal(13 + shift, 5, n_defective)):
            kind = ("crack", "fray", ODD_NAME)[i % 3]
            cases.append(Case(f"test/{kind}/{i}.png", kind, float(s), 0.01, bool(s > THRESHOLD)))
        x = np.linspace(0, 1, 60)
        lines = {"roc": (x, x**0.1), "pr": (x, 1 - 0.3 * x**4), "pixel_roc": (x, x**0.2)}
        lines |= {"pixel_pr": (x, (1 - x) ** 2), "pro": (x, x**0.3)}
        numbers: dict[str, Any] = {
            "image_auroc": 0.951,
            "image_ap": 0.942,
            "image_f1_max": 0.933,
            "pixel_auroc": 0.924,
            "pixel_ap": 0.415,
            "pixel_f1_max": 0.457,
            "aupro": 0.806,
            "aupro_interval": [0.7712, 0.8399],
            "aupimo": 0.338,
            "iou_at_threshold": 0.219,
            "region_recall_at_threshold": 0.767,
            "recall_at_threshold": 0.9,
            "false_alarm_rate": 0.025,
            "false_alarm_rate_asked": 0.01,
            "latency_ms_p50": 14.2,
            "latency_ms_p95": 19.9,
            "fit_seconds": {"features": 21.0, "memory": 8.0, "calibration": 3.0, "total": 32.0},
            "bank_vectors": 15680,
            "bank_mb": 9.5,
            "peak_rss_mb": 812.0,
            "environment": {"python": "3.12.1", "threads": 2, "versions": {"torch": "2.5"}},
            "notes": {},
            "per_defect": {
                "crack": {
                    "n": 10,
                    "image_auroc": 0.95,
                    "recall_at_threshold": 0.9,
                    "pixel_auroc": None,
                    "aupro": None,
                },
                ODD_NAME: {
                    "n": 10,
                    "image_auroc": float("nan"),
                    "recall_at_threshold": 0.5,
                    "pixel_auroc": 0.8,
                    "aupro": 0.7,
                },
            },
        }
        return Evaluation(
            metrics={**numbers, **metrics},
            cases=cases,
            threshold=THRESHOLD,
            calibration_scores=rng.normal(13, 2.0, 80),
            curves=lines if curves else {},
            misses=[panel(case) for case in cases if case.is_miss][:3],
            false_alarms=[panel(case) for case in cases if case.is_false_alarm][:3],
            examples=[panel(case) for case in cases if case.is_defective and case.is_anomalous][:2],
            how={"Model": "PatchCore", "Command": "patchbank evaluate a.patchbank /data -O out"},
        )

    return make
