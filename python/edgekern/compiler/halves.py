"""Constants of a model in halves, as halves again: in layouts of their own, padded with zeros, but the same numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edgekern._core import Storage
from edgekern.artifact.container import Blob, Form, Halves

_LEAST_BYTES = 1024  # what is smaller saves a line or two of a file
_PIECE = 1 << 18  # items that are looked at together


def narrowed(content: bytes, halves: Sequence[str]) -> Blob:
    """A blob, or the halves that it widens from to the last bit, where it does."""
    if len(content) < _LEAST_BYTES or len(content) % 4:
        return content
    words = np.frombuffer(content, np.uint32)
    for name in halves:
        found = np.empty(words.size, np.uint16)
        if all(_narrow(words[at : at + _PIECE], found[at : at + _PIECE], name) for at in range(0, words.size, _PIECE)):
            return Halves(found, Form(Storage.F16 if name == "float16" else Storage.BF16))
    return content


def _narrow(words: npt.NDArray[np.uint32], halves: npt.NDArray[np.uint16], name: str) -> bool:
    """Fill in the halves that float32, given by their bits, are; False where one of them is no half."""
    if name == "bfloat16":
        np.right_shift(words, 16, out=halves, casting="unsafe")
        return not (words & 0xFFFF).any()
    with np.errstate(over="ignore", invalid="ignore"):
        halves.view(np.float16)[:] = words.view(np.float32)
    return bool((halves.view(np.float16).astype(np.float32).view(np.uint32) == words).all())
