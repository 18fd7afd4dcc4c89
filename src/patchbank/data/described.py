"""What a thing is that cannot be taken as an image, and the way to make it one."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

CHANNELS = (1, 3, 4)


def is_table(item: object) -> bool:
    return hasattr(item, "columns") and hasattr(item, "iloc")


def is_tensor(item: object) -> bool:
    return type(item).__module__.partition(".")[0] == "torch" and hasattr(item, "permute")


def described(item: object) -> str:
    """What a thing is that is no image, with the way to make it one where there is one."""
    kind = type(item)
    if is_tensor(item):
        return "a torch tensor: give H×W×C numpy arrays, such as tensor.permute(1, 2, 0).cpu().numpy()"
    if is_table(item):
        return "a table: give its column of paths as a list, such as table['path'].tolist()"
    if isinstance(item, (list, tuple)):
        return f"a {kind.__name__} within the list: give one flat list"
    if hasattr(item, "__array__") and int(getattr(item, "ndim", 0)):
        return f"{kind.__module__}.{kind.__name__}: convert it with numpy.asarray"
    return kind.__name__


def shape_of(array: NDArray[Any]) -> str:
    return "×".join(map(str, array.shape))


def about_shape(array: NDArray[Any]) -> str:
    """What to do with an array whose last axis has no channels."""
    if array.ndim == 4 and array.shape[1] in CHANNELS:
        return "must be N×H×W×C with C = 1, 3 or 4: move the channels to the end, such as numpy.moveaxis(array, 1, 3)"
    if array.ndim == 4:
        return "must be N×H×W×C with C = 1, 3 or 4"
    if array.shape[0] in CHANNELS:
        return (
            "is no H×W×C image: move its channels to the end with array.transpose(1, 2, 0), or give grey images as "
            "array[..., None]"
        )
    return "is no H×W×C image with C = 1, 3 or 4: give a stack of N grey images as array[..., None]"
