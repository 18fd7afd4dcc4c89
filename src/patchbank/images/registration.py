"""Which translation, rotation and scale lays one grey picture over another.

A coarse search turns and scales the reference and correlates it with the picture at every shift (by Fourier transforms
of pictures of 64 pixels); the likeliest places are refined on ever finer pictures by Gauss-Newton steps (Lucas and
Kanade, 1981) on the four numbers of the transform, with the gain and offset of the light fitted in each step. Of what
comes out the one wins whose fine structure agrees best: two bright blobs on a dark ground correlate as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Matrix = NDArray[np.float64]  # 2×3: pixel centres of one picture → those of another

SIDE = 256  # of the longer side of the finest pictures that are compared, in pixels
_SIDES = (64, 128, SIDE)
_ANGLES, _SCALES = np.arange(0.0, 360.0, 5.0), (0.87, 1.0, 1.15)  # of the coarse search
_APART = 15.0  # degrees between two places of the coarse search
_TRIED, _KEPT = 5, 2  # places that are refined at the coarsest level, and at the others
_STEPS = 20
_STILL = 0.02  # pixels; a step that moves no corner farther was the last
_COARSE = 12.0  # σ in pixels of the finest pictures: what is smoother than that is no fine structure


@dataclass(frozen=True)
class Registration:
    """`matrix` takes pixel centres of the picture to those of the reference; `correlation` of the two where they
    overlap, −1..1, at the end that of their fine structure; `overlap`: the share of the reference that is covered."""

    matrix: Matrix
    correlation: float
    overlap: float


@dataclass(frozen=True, eq=False)
class _Level:
    """A picture at one of `_SIDES`: h×w, and the matrix from the pixels of the picture to its own."""

    field: Field
    scaling: Matrix

    @classmethod
    def all_of(cls, grey: Field) -> list[_Level]:
        """The levels of a picture, coarse to fine."""
        height, width = grey.shape
        levels = []
        for side in _SIDES:
            w, h = (max(round(s * side / max(height, width)), 8) for s in (width, height))
            field = cv2.resize(grey, (w, h), interpolation=cv2.INTER_AREA)
            x, y = w / width, h / height
            # lightly smoothed, so that slopes hold for a step of a pixel
            levels.append(cls(cv2.GaussianBlur(field, (0, 0), 1), np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2]])))
        return levels


class Pattern:
    """A grey picture, H×W, that others are registered to."""

    def __init__(self, grey: Field) -> None:
        self._levels = _Level.all_of(grey)

    def register(self, grey: Field) -> Registration:
        """Lay a grey picture, h×w, over this one."""
        levels = _Level.all_of(grey)
        found = [_refined(self._levels[0].field, levels[0].field, start) for start in self._places(levels[0].field)]
        for level in range(1, len(_SIDES)):
            likely = sorted(found, key=lambda r: -r.correlation)[:_KEPT]
            changes = [after(new[level].scaling, inverse(new[level - 1].scaling)) for new in (self._levels, levels)]
            starts = [_similar(after(changes[0], after(r.matrix, inverse(changes[1])))) for r in likely]
            found = [_refined(self._levels[level].field, levels[level].field, start) for start in starts]
        reference, image = _fine(self._levels[-1].field), _fine(levels[-1].field)
        best = max((_measured(reference, image, r.matrix)[0] for r in found), key=lambda r: r.correlation)
        matrix = after(inverse(self._levels[-1].scaling), after(best.matrix, levels[-1].scaling))
        return Registration(matrix, best.correlation, best.overlap)

    @cached_property
    def _turned(self) -> tuple[list[Matrix], int, NDArray[np.complex64]]:
        """Matrices that turn and scale the coarsest reference, and the conjugate transforms of what that gives, of a
        side that holds it and a picture beside it."""
        reference = self._levels[0].field
        side = cv2.getOptimalDFTSize(int(2.2 * _SIDES[0]))
        poses, transforms = [], []
        for scale in _SCALES:
            for angle in _ANGLES.tolist():
                pose = _turning(reference, angle, scale, side)
                poses.append(pose)
                inside = cv2.warpAffine(np.ones_like(reference), pose, (side, side))
                field = cv2.warpAffine(reference - reference.mean(), pose, (side, side)) * inside
                transforms.append(np.conj(np.fft.rfft2(field / max(float(np.linalg.norm(field)), 1e-6))))
        return poses, side, np.stack(transforms).astype(np.complex64)

    def _places(self, image: Field) -> list[Matrix]:
        """Likely matrices from a coarsest picture to the coarsest reference."""
        poses, side, turned = self._turned
        padded = np.zeros((side, side), np.float32)
        padded[: image.shape[0], : image.shape[1]] = image - image.mean()
        agreement = np.fft.irfft2(np.fft.rfft2(padded).astype(np.complex64) * turned, (side, side))
        agreement = agreement.reshape(len(poses), -1)
        peaks = agreement.argmax(1)
        places, angles = list[Matrix](), list[float]()
        for i in np.argsort(-agreement.max(1)).tolist():
            angle = float(_ANGLES[i % len(_ANGLES)])
            if all(abs((angle - other + 180) % 360 - 180) >= _APART for other in angles):
                row, column = divmod(int(peaks[i]), side)
                shift = [v - side if v > side / 2 else v for v in (column, row)]
                pose = poses[i].copy()
                pose[:, 2] += shift
                places.append(inverse(pose))
                angles.append(angle)
            if len(places) == _TRIED:
                break
        return places


def after(second: Matrix, first: Matrix) -> Matrix:
    """The matrix of one transform and then another."""
    return np.hstack([second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2:] + second[:, 2:]])


def inverse(matrix: Matrix) -> Matrix:
    """The matrix of the way back."""
    return np.asarray(cv2.invertAffineTransform(matrix), dtype=np.float64)


def _turning(reference: Field, angle: float, scale: float, side: int) -> Matrix:
    """Turns and scales a reference about its centre, which comes to the centre of a square."""
    height, width = reference.shape
    pose = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, scale)
    pose[:, 2] += [(side - width) / 2, (side - height) / 2]
    return np.asarray(pose)


def _similar(matrix: Matrix) -> Matrix:
    """The nearest matrix that turns, scales and shifts (sides are rounded to pixels one by one)."""
    a, b = (matrix[0, 0] + matrix[1, 1]) / 2, (matrix[1, 0] - matrix[0, 1]) / 2
    return np.array([[a, -b, matrix[0, 2]], [b, a, matrix[1, 2]]])


def _fine(field: Field) -> Field:
    """What of a finest picture is no smoother than `_COARSE`."""
    fine: Field = field - cv2.GaussianBlur(field, (0, 0), _COARSE)
    return fine


def _refined(reference: Field, image: Field, start: Matrix) -> Registration:
    """The best matrix near a first one, by steps that are taken while the correlation grows."""
    height, width = reference.shape
    y, x = (v.astype(np.float32) for v in np.mgrid[:height, :width])
    x, y = x - (width - 1) / 2, y - (height - 1) / 2
    best, laid, inside = _measured(reference, image, start)
    for _ in range(_STEPS):
        if inside.sum() < 32:
            break
        dx, dy = (cv2.Sobel(laid, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
        columns = [dx * x + dy * y, dy * x - dx * y, dx, dy, laid, np.ones_like(laid)]
        system = np.stack(columns).reshape(len(columns), -1) * inside.ravel()
        solution = np.linalg.lstsq(system @ system.T, system @ reference.ravel(), rcond=None)[0]
        if abs(solution[4]) < 1e-6:  # no likeness at all
            break
        grown, turned, right, down = solution[:4] / solution[4]
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        linear = np.array([[1 + grown, -turned], [turned, 1 + grown]])
        shift = centre + np.array([right, down]) - linear @ centre
        step = np.hstack([linear, shift[:, None]])
        if not 0.5 < np.linalg.det(linear) < 2:
            break
        found, laid, inside = _measured(reference, image, after(inverse(step), best.matrix))
        if found.correlation <= best.correlation:
            break
        best = found
        if np.hypot(grown, turned) * np.hypot(*centre) + np.hypot(right, down) < _STILL:
            break
    return best


def _measured(reference: Field, image: Field, matrix: Matrix) -> tuple[Registration, Field, NDArray[np.bool_]]:
    """How well a matrix lays a picture over the reference; the picture laid over it, and where that is."""
    size = (reference.shape[1], reference.shape[0])
    laid = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones(image.shape, np.uint8), matrix, size, flags=cv2.INTER_NEAREST) > 0
    a, b = reference[inside].astype(np.float64), laid[inside].astype(np.float64)
    correlation = 0.0
    if a.size and a.std() > 1e-3 and b.std() > 1e-3:
        correlation = float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std()))
    return Registration(matrix, correlation, float(inside.mean())), laid, inside
