"""A model as a function from feeds to outputs, in the numbers of the float model on both sides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern._onnxruntime import open_session
from edgekern.analysis._borders import as_codes, as_numbers
from edgekern.analysis._rows import cut
from edgekern.artifact import TensorInfo
from edgekern.errors import ArgumentValueError
from edgekern.graph.model import load_model
from edgekern.runtime import InferenceSession

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Run = Callable[[Mapping[str, Any]], dict[str, Array]]


def run_of_program(session: InferenceSession) -> Run:
    """Floats in and out: what a program takes and gives as codes of 8 bits is quantized and dequantized beside it.

    Feeds of several times as many rows as the program takes are cut.
    """
    inputs = {info.name: coded(info) for info in session.program.inputs}
    outputs = session.program.outputs
    names = [info.name for info in outputs]
    shapes = {node.name: node.shape for node in session.get_inputs()}

    def run(feeds: Mapping[str, Any]) -> dict[str, Array]:
        codes = {name: as_codes(array, inputs.get(name)) for name, array in feeds.items()}
        parts = [session.run(names, dict(part)) for part in cut(codes, shapes)]
        return {
            info.name: as_numbers(joined([part[at] for part in parts]), coded(info)) for at, info in enumerate(outputs)
        }

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


def coded(info: TensorInfo) -> TensorInfo | None:
    """An input or output whose codes stand for numbers."""
    return info if info.scale else None


def joined(parts: Sequence[Array]) -> Array:
    return parts[0] if len(parts) == 1 or not parts[0].ndim else np.concatenate(parts)
