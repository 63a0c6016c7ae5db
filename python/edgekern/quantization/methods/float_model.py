"""A float model in and out, for methods that change weights before anything is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern.calibration import Calibrator
from edgekern.calibration.feeds import check_feeds
from edgekern.calibration.open_runner import one_line, open_runner
from edgekern.errors import ArgumentTypeError, CalibrationError, EdgekernError, QuantizationError
from edgekern.graph.copies import eliminate_identities
from edgekern.graph.families import QDQ, is_integer
from edgekern.graph.fold_constants import folded
from edgekern.graph.infer_types import with_types, without_false_shapes
from edgekern.graph.initializers import new_initializer
from edgekern.graph.model import open_model
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import float_constant

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]
Samples = Calibrator | Iterable[Mapping[str, Array]]

_ROWS = 512  # of an activation that are kept


def opened_float(model: ModelLike, *, function: str) -> ir.Model:
    """The graph with constants as initializers, and shapes as far as they are known; refuses what is quantized."""
    opened = folded(with_types(without_false_shapes(open_model(model, function=function))), function=function).to_ir()
    if any(is_integer(node) or (node.domain == "" and node.op_type in QDQ) for node in opened.graph):
        raise QuantizationError(f"{function}: model is quantized already; give the float model")
    for simplify in (
        passes.RemoveInitializersFromInputsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ):
        simplify(opened)
    eliminate_identities(opened.graph)
    passes.ShapeInferencePass()(opened)
    return opened


def written_float(model: ir.Model) -> onnx.ModelProto:
    """The model without what nothing reads any more."""
    passes.RemoveUnusedNodesPass()(model)
    return ir.serde.serialize_model(model)


def float32_of(value: ir.Value | None) -> npt.NDArray[np.float64] | None:
    """A constant of float32 in float64, to compute with; None of anything else."""
    found = None if value is None or value.const_value is None else float_constant(value)
    return None if found is None or found.dtype != np.float32 else found.astype(np.float64)


def replace_constant(node: ir.Node, at: int, array: npt.NDArray[np.floating]) -> None:
    """Give a node another constant; what others read stays what it was."""
    old, graph = node.inputs[at], node.graph
    assert old is not None
    assert isinstance(graph, ir.Graph)
    made = array.astype(np.float32)
    if len(list(old.uses())) == 1 and not old.is_graph_output() and old.is_initializer():
        old.const_value = ir.Tensor(made, name=old.name)
        old.shape, old.type = ir.Shape(made.shape), ir.TensorType(ir.DataType.FLOAT)
    else:
        node.replace_input_with(at, new_initializer(graph, str(old.name), made))


@dataclass
class Seen:
    """What samples made of an activation, along one axis, by default the last.

    Attributes
    ----------
    least, most : (k,) float32. Of each channel, over all rows.
    mean, square : (k,) float64. The mean magnitude, and the mean square.
    rows : (some, k) float32. At most 512 rows, as many of each sample.
    """

    least: Float32Array
    most: Float32Array
    mean: npt.NDArray[np.float64]
    square: npt.NDArray[np.float64]
    rows: Float32Array

    @property
    def largest(self) -> Float32Array:
        """The largest magnitude of each channel."""
        return np.maximum(-self.least, self.most)


def samples_of(samples: object, *, function: str) -> list[Mapping[str, Array]]:
    """The feeds of a caller, or those that a calibrator kept.

    Raises
    ------
    ArgumentTypeError, CalibrationError
        When they are neither, or none.
    """
    if isinstance(samples, Calibrator):
        found: list[Any] = list(samples.kept_feeds)
    elif isinstance(samples, Iterable) and not isinstance(samples, (str, bytes, Mapping, np.ndarray)):
        found = list(samples)
    else:
        raise ArgumentTypeError(
            f"{function}: samples must be a Calibrator or an iterable of feeds, got {type(samples).__name__}; pass "
            "[{'input': array}, ...]"
        )
    if not found:
        raise CalibrationError(f"{function}: samples are none; collect some, with kept_bytes above 0, or pass feeds")
    return found


def see(model: ir.Model, names: Iterable[str], samples: object, *, function: str, axis: int = -1) -> dict[str, Seen]:
    """Run the samples, and say what they make of some float activations, with channels along an axis."""
    wanted = list(dict.fromkeys(names))
    given = samples_of(samples, function=function)
    opened = Skeleton.of_ir(model)
    fed = {value.name for value in opened.inputs}
    runner = open_runner(function, "the model", opened, [name for name in wanted if name not in fed])
    each = -(-_ROWS // len(given))
    parts: dict[str, list[Seen]] = {name: [] for name in wanted}
    counts: dict[str, list[int]] = {name: [] for name in wanted}
    for sample in given:
        feeds = check_feeds(function, sample, runner.inputs, ())
        for name, array in _made(runner.run(feeds), feeds, wanted, function):
            turned = np.moveaxis(array, axis, -1)
            rows = turned.reshape(-1, turned.shape[-1]).astype(np.float32, copy=False)
            if not np.isfinite(rows).all():
                raise CalibrationError(f"{function}: samples give {name!r} NaN or infinity; leave such samples out")
            if len(rows):
                mean = np.abs(rows).mean(axis=0, dtype=np.float64)
                square = np.square(rows, dtype=np.float64).mean(axis=0)
                step = -(-len(rows) // each)
                parts[name].append(Seen(rows.min(axis=0), rows.max(axis=0), mean, square, rows[::step].copy()))
                counts[name].append(len(rows))
    return {name: _joined(parts[name], counts[name]) for name in wanted if parts[name]}


def _made(
    pieces: Iterator[dict[str, Array]], feeds: Mapping[str, Array], wanted: Sequence[str], function: str
) -> Iterator[tuple[str, Array]]:
    yield from ((name, feeds[name]) for name in wanted if name in feeds)
    try:
        for piece in pieces:
            yield from piece.items()
    except Exception as error:  # onnxruntime raises a class per status, all private
        if isinstance(error, EdgekernError):
            raise
        raise CalibrationError(f"{function}: onnxruntime could not run the model: {one_line(error)}") from error


def _joined(parts: Sequence[Seen], counts: Sequence[int]) -> Seen:
    return Seen(
        np.min([part.least for part in parts], axis=0),
        np.max([part.most for part in parts], axis=0),
        np.average([part.mean for part in parts], axis=0, weights=counts),
        np.average([part.square for part in parts], axis=0, weights=counts),
        np.concatenate([part.rows for part in parts])[:_ROWS],
    )
