"""Which translation, rotation and scale lays one grey picture over another.

A coarse search turns and scales the reference and correlates it with the picture at every shift (by Fourier transforms
of pictures of 64 pixels); the likeliest places are refined on ever finer pictures by Gauss-Newton steps (Lucas and
Kanade, 1981) on the four numbers of the transform, with the gain and offset of the light fitted in each step. Of what
comes out those go on whose fine structure agrees best: two bright blobs on a dark ground correlate as they are, and a
gleam turns with the lamp, not with the part.
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
_ANGLES, _SCALES = np.arange(0.0, 360.0, 7.5), (0.87, 1.0, 1.15)  # of the coarse search
_UPRIGHT = (0.0, 7.5, 352.5)  # parts mostly lie as the reference does: always tried
_APART = 15.0  # degrees between other places of the coarse search
_TRIED, _KEPT = 7, 3  # places that are refined at the coarsest level, and at the others
_TURNED = 0.1 / np.pi  # correlation that a place must have more for each radian that it is turned
_STEPS = 20
_GAIN = 1e-5  # a step that gains less correlation was the last
_COARSE = 12 / 256  # σ in sides of a picture: what is smoother than that is no fine structure


@dataclass(frozen=True)
class Registration:
    """`matrix` takes pixel centres of the picture to those of the reference; `correlation` of the two where they
    overlap, −1..1, at the end that of their fine structure; `overlap`: the share of the reference that is covered."""

    matrix: Matrix
    correlation: float
    overlap: float


@dataclass(frozen=True, eq=False)
class _Level:
    """A picture at one of `_SIDES`: h×w; its fine structure; the matrix from the pixels of the picture to its own."""

    field: Field
    fine: Field
    scaling: Matrix

    @classmethod
    def all_of(cls, grey: Field) -> list[_Level]:
        """The levels of a picture, coarse to fine."""
        grey = (grey - grey.mean()).astype(np.float32)
        levels = []
        for side in _SIDES:
            scale = side / max(grey.shape)
            height, width = (max(round(s * scale), 8) for s in grey.shape)
            scaling = np.array([[scale, 0, (scale - 1) / 2], [0, scale, (scale - 1) / 2]])
            # lightly smoothed, so that slopes hold for a step of a pixel, and more where pixels are left out
            smooth = cv2.GaussianBlur(grey, (0, 0), max(0.4 / scale, 0.5)) if scale < 1 else grey
            field = cv2.warpAffine(smooth, scaling, (width, height), borderMode=cv2.BORDER_REPLICATE)
            field = cv2.GaussianBlur(field, (0, 0), 1)
            fine = field - cv2.GaussianBlur(field, (0, 0), _COARSE * side)
            levels.append(cls(field, fine, scaling))
        return levels


class Pattern:
    """A grey picture, H×W, that others are registered to."""

    def __init__(self, grey: Field) -> None:
        self._levels = _Level.all_of(grey)

    def register(self, grey: Field) -> Registration:
        """Lay a grey picture, h×w, over this one."""
        levels = _Level.all_of(grey)
        found = self._at(0, levels[0], self._places(levels[0].field))
        for level in range(1, len(_SIDES)):
            likely = [r.matrix for r in found[:_KEPT]]
            growth = _SIDES[level] / _SIDES[level - 1]
            found = self._at(level, levels[level], [_grown(matrix, growth) for matrix in likely])
        best = found[0]
        matrix = after(inverse(self._levels[-1].scaling), after(best.matrix, levels[-1].scaling))
        return Registration(matrix, best.correlation, best.overlap)

    def _at(self, level: int, image: _Level, places: list[Matrix]) -> list[Registration]:
        """Places refined at a level, best fine structure first; of those that are alike, the least turned."""
        reference = self._levels[level]
        refined = [_refined(reference.field, image.field, place) for place in places]
        found = [_measured(reference.fine, image.fine, matrix)[0] for matrix in refined]
        return sorted(found, key=lambda r: _TURNED * abs(np.arctan2(r.matrix[1, 0], r.matrix[0, 0])) - r.correlation)

    @cached_property
    def _turned(self) -> tuple[list[Matrix], int, NDArray[np.complex64]]:
        """Matrices that turn and scale the coarsest reference, and the conjugate transforms of what that gives, of a
        side that holds it and a picture beside it."""
        reference = self._levels[0].field
        side = cv2.getOptimalDFTSize(int(1.5 * _SIDES[0]))
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
        order = np.argsort(-agreement.max(1)).tolist()
        angles = [float(_ANGLES[i % len(_ANGLES)]) for i in order]
        chosen = {angle: order[angles.index(angle)] for angle in _UPRIGHT}  # each at its best scale
        for i, angle in zip(order, angles, strict=True):
            if len(chosen) < _TRIED and all(abs((angle - other + 180) % 360 - 180) >= _APART for other in chosen):
                chosen[angle] = i
        places = []
        for i in chosen.values():
            row, column = divmod(int(peaks[i]), side)
            pose = poses[i].copy()
            pose[:, 2] += [v - side if v > side / 2 else v for v in (column, row)]
            places.append(inverse(pose))
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


def _grown(matrix: Matrix, factor: float) -> Matrix:
    """A matrix between pictures → that between the same pictures `factor` times as large."""
    corner = (factor - 1) / 2  # pixel centres have whole numbers
    shift = factor * matrix[:, 2] + corner - corner * matrix[:, :2].sum(1)
    return np.hstack([matrix[:, :2], shift[:, None]])


def _refined(reference: Field, image: Field, start: Matrix) -> Matrix:
    """The best matrix near a first one, by steps that are taken while the correlation grows."""
    height, width = reference.shape
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    x, y = (
        (np.arange(width) - centre[0]).astype(np.float32),
        (np.arange(height) - centre[1]).astype(np.float32)[:, None],
    )
    best, laid, inside = _measured(reference, image, start)
    for _ in range(_STEPS):
        dx, dy = (cv2.Sobel(laid, cv2.CV_32F, *order, ksize=3, scale=1 / 8) for order in ((1, 0), (0, 1)))
        # reference = gain · (laid + slopes · step) + offset, by least squares
        columns = [dx * x + dy * y, dy * x - dx * y, dx, dy, laid, np.ones_like(laid)]
        system = np.stack(columns).reshape(len(columns), -1) * inside.ravel()
        solution = np.linalg.lstsq(system @ system.T, system @ reference.ravel(), rcond=None)[0]
        grown, turned, right, down = solution[:4] / (solution[4] or 1.0)
        linear = np.array([[1 + grown, -turned], [turned, 1 + grown]])
        if not 0.5 < np.linalg.det(linear) < 2:  # nothing alike
            break
        shift = centre + np.array([right, down]) - linear @ centre
        step = np.hstack([linear, shift[:, None]])
        found, laid, inside = _measured(reference, image, after(inverse(step), best.matrix))
        gain = found.correlation - best.correlation
        best = found if gain > 0 else best
        if gain < _GAIN:
            break
    return best.matrix


def _measured(reference: Field, image: Field, matrix: Matrix) -> tuple[Registration, Field, Field]:
    """How well a matrix lays a picture over the reference; the picture laid over it, and where it is, 0 or 1."""
    size = (reference.shape[1], reference.shape[0])
    laid = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones_like(image), matrix, size, flags=cv2.INTER_NEAREST)
    count = max(float(inside.sum()), 1.0)
    a, b = (v - float(np.vdot(v, inside)) / count for v in (reference, laid))
    a, b = a * inside, b * inside
    spread = float(np.vdot(a, a)) * float(np.vdot(b, b))
    correlation = float(np.vdot(a, b)) / spread**0.5 if spread > (1e-3 * count) ** 2 else 0.0
    return Registration(matrix, correlation, count / inside.size), laid, inside
