"""A model as a function from feeds to outputs, in the numbers of the float model on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._onnxruntime import open_session
from edgekern.analysis._rows import cut
from edgekern.artifact import TensorInfo
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import load_model
from edgekern.ops import dequantize_linear, quantize_linear
from edgekern.runtime import InferenceSession

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Any]], dict[str, Array]]


def run_of_program(session: InferenceSession) -> Run:
    """Floats in and out: what a program takes and gives as codes of 8 bits is quantized and dequantized beside it.

    Feeds of several times as many rows as the program takes are cut.
    """
    inputs = {info.name: info for info in session.program.inputs}
    outputs = session.program.outputs
    names = [info.name for info in outputs]
    shapes = {node.name: node.shape for node in session.get_inputs()}

    def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
        codes = {name: as_codes(array, inputs.get(name)) for name, array in feeds.items()}
        parts = [session.run(names, dict(part)) for part in cut(codes, shapes)]
        return {info.name: as_floats(joined([part[at] for part in parts]), info) for at, info in enumerate(outputs)}

    return run


def run_of_model(model: ModelLike, *, function: str) -> Run:
    """An ONNX model, which onnxruntime runs on the package's number of threads.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When it is none. Later, when onnxruntime cannot run a feed.
    """
    encoded = load_model(model, function=function).SerializeToString()
    session = open_session(encoded, num_threads=_core.num_threads(), as_written=False)
    names = [node.name for node in session.get_outputs()]
    shapes = {node.name: node.shape for node in session.get_inputs()}

    def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
        try:
            parts = [session.run(names, dict(part)) for part in cut(feeds, shapes)]
        except Exception as error:  # onnxruntime raises a class per status, all private
            text = " ".join(str(error).split())
            raise ArgumentValueError(f"{function}: onnxruntime cannot run the model on this feed: {text}") from error
        return {name: joined([part[at] for part in parts]) for at, name in enumerate(names)}

    return run


def as_codes(array: Any, info: TensorInfo | None) -> Any:
    """What a program with 8 bits at its borders takes of floats."""
    if info is None or not info.scale or getattr(array, "dtype", None) != np.float32:
        return array
    assert info.zero_point is not None
    return quantize_linear(array, info.scale, info.zero_point, dtype=info.dtype)


def as_floats(array: Array, info: TensorInfo) -> Array:
    """What codes stand for."""
    if not info.scale:
        return array
    assert info.zero_point is not None
    return dequantize_linear(array, info.scale, info.zero_point)


def joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 or not parts[0].ndim else np.concatenate(parts)
