"""One feed for two models, of which one takes the codes that the other takes the numbers of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern.artifact import TensorInfo
from edgekern.ops import dequantize_linear, quantize_linear

Array = npt.NDArray[Any]


def as_codes(array: Array, border: TensorInfo | None) -> Array:
    """What a program with 8 bits at its borders takes of what the float model is fed."""
    if border is None or array.dtype != np.float32:
        return array
    assert border.scale is not None
    assert border.zero_point is not None
    return quantize_linear(array, border.scale, border.zero_point, dtype=border.dtype)


def as_numbers(array: Array, border: TensorInfo | None) -> Array:
    """What the float model takes of a program's codes."""
    if border is None or array.dtype != border.dtype:
        return array
    assert border.scale is not None
    assert border.zero_point is not None
    return dequantize_linear(array, border.scale, border.zero_point)


def fitted(feeds: Mapping[str, Any], floats: Mapping[str, bool], borders: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Feeds for a model, of which ``floats`` says which inputs are float32: between it and ``borders``, the 8-bit
    inputs of a program, codes and numbers become each other."""
    return {
        name: array
        if not isinstance(array, np.ndarray)
        else as_numbers(array, borders.get(name))
        if floats.get(name)
        else as_codes(array, borders.get(name))
        for name, array in feeds.items()
    }
