"""What layers multiply, as samples show it: means and second moments of their inputs, in the order of their weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern.calibration import Calibrator
from edgekern.calibration.feeds import check_feeds
from edgekern.calibration.open_runner import one_line, open_runner
from edgekern.calibration.progress import progress_bar
from edgekern.errors import CalibrationError
from edgekern.graph.families import PRODUCTS
from edgekern.graph.values import int_attribute, ints_attribute, is_float_constant, label, text_attribute
from edgekern.quantization.methods.float_model import Samples, samples_of
from edgekern.quantization.weights import INPUT_MEANS, SECOND_MOMENTS

if TYPE_CHECKING:
    from edgekern.graph.skeleton import Skeleton

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

# Moments that are held at a time; where all layers have more, the samples run again.
MOMENT_BYTES = 512 << 20
# Windows that a layer's moments are taken of, so many for each of their numbers at least, and what they take at a time.
MOST_WINDOWS, WINDOWS_AN_INPUT, WINDOW_BYTES = 1 << 16, 16, 32 << 20


class LayerInputs:
    """Moments of the inputs of a prepared graph's products, collected as they are asked for, some layers at a time.

    Parameters
    ----------
    model : Skeleton. The float model that the graph was made of; tensors have its names.
    nodes : the products that will be asked for, about in that order
    samples : a Calibrator of this model, whose kept samples they are, or feeds
    model_hash : str
    function : for errors

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When samples are neither, or not what the model takes.
    CalibrationError
        When the calibrator is of another model, or there are no samples, or onnxruntime cannot run the model.
    """

    def __init__(
        self,
        model: Skeleton,
        nodes: Sequence[ir.Node],
        samples: Samples,
        *,
        model_hash: str,
        function: str,
    ) -> None:
        self._model, self._function = model, function
        made = {name for node in model.proto.graph.node for name in node.output} | {v.name for v in model.inputs}
        self._waiting = [node for node in nodes if _has_moments(node) and _source(node) in made]
        self._found: dict[ir.Node, dict[str, FloatArray]] = {}
        self._feeds = self._checked(samples, model_hash)
        self._step: Callable[[], None] = lambda: None

    @contextmanager
    def bar(self, *, enabled: bool) -> Iterator[None]:
        """Show what is left while statistics are asked for, each layer once: samples that run, and layers."""
        first, steps = 0, len(self._waiting)
        while first < len(self._waiting):
            first += len(self._together(first))
            steps += len(self._feeds)
        with progress_bar("rounding by samples", steps, enabled=enabled) as self._step:
            yield

    def statistics(self, node: ir.Node) -> Mapping[str, FloatArray]:
        """:data:`SECOND_MOMENTS` and :data:`INPUT_MEANS` of a product's input; empty where it has none."""
        if node not in self._waiting:
            return {}
        if node not in self._found:
            self._collect(self._together(self._waiting.index(node)))
        self._step()
        return self._found[node]

    def _checked(self, samples: Samples, model_hash: str) -> list[dict[str, Array]]:
        function = self._function
        if isinstance(samples, Calibrator) and samples.model_hash != model_hash:
            raise CalibrationError(f"{function}: samples are of a Calibrator of another model; calibrate this one")
        given = samples_of(samples, function=function)
        inputs = open_runner(function, "the model", self._model, []).inputs
        unranked = {v.name for v in self._model.inputs if not v.type.tensor_type.HasField("shape")}
        return [check_feeds(function, feeds, inputs, unranked) for feeds in given]

    def _together(self, first: int) -> list[ir.Node]:
        """The layers from one on, as many as there is room for."""
        chosen: list[ir.Node] = []
        taken = 0
        for node in self._waiting[first:]:
            groups, k = _sides(node)
            taken += groups * k * k * 8
            if chosen and taken > MOMENT_BYTES:
                break
            chosen.append(node)
        return chosen

    def _collect(self, chosen: Sequence[ir.Node]) -> None:
        """The moments of some layers, instead of those of others."""
        self._found.clear()
        by_source: dict[str, list[_Moments]] = {}
        moments = {node: _Moments(node, len(self._feeds)) for node in chosen}
        for node in chosen:
            by_source.setdefault(_source(node), []).append(moments[node])
        fed = {value.name for value in self._model.inputs}
        names = [name for name in by_source if name not in fed]
        runner = open_runner(self._function, "the model", self._model, names)
        for feeds in self._feeds:
            for name in by_source.keys() & feeds.keys():
                _add(by_source[name], feeds[name])
            try:
                for part in runner.run(feeds):
                    for name, array in part.items():
                        _add(by_source[name], array)
            except Exception as error:  # onnxruntime raises a class per status, all private
                raise CalibrationError(
                    f"{self._function}: onnxruntime could not run a sample: {one_line(error)}"
                ) from error
            self._step()
        for node, sums in moments.items():
            if not sums.usable():
                raise CalibrationError(
                    f"{self._function}: samples give the layer {label(node)!r} no number, or NaN or infinity; leave "
                    "such samples out"
                )
        self._found = {node: found.statistics() for node, found in moments.items()}


class _Moments:
    """Sums over the windows of one product's input, so many of a sample that all samples have a share."""

    def __init__(self, node: ir.Node, samples: int) -> None:
        self._node = node
        self._groups, self._k = _sides(node)
        wanted = min(MOST_WINDOWS, max(1 << 14, WINDOWS_AN_INPUT * self._k))
        self._most = max(1, -(-wanted // samples))
        self._squares = np.zeros((self._groups, self._k, self._k))
        self._sums = np.zeros((self._groups, self._k))
        self._count = 0

    def add(self, x: Array) -> None:
        """The input of one sample."""
        x = x.astype(np.float32, copy=False)
        rows = _windows(self._node, x) if self._node.op_type == "Conv" else _rows(self._node, x)
        chosen = _some(len(rows), self._most)
        at_once = max(1, WINDOW_BYTES // (4 * self._groups * self._k))
        for first in range(0, len(chosen), at_once):
            part = rows.taken(chosen[first : first + at_once]).reshape(-1, self._groups, self._k).transpose(1, 0, 2)
            part = np.ascontiguousarray(part)
            with np.errstate(invalid="ignore", over="ignore"):  # usable() tells
                self._squares += part.transpose(0, 2, 1) @ part
                self._sums += part.sum(axis=1, dtype=np.float64)
        self._count += len(chosen)

    def usable(self) -> bool:
        """Whether there was anything, and all of it finite."""
        return self._count > 0 and bool(np.isfinite(self._squares).all())

    def statistics(self) -> dict[str, FloatArray]:
        return {SECOND_MOMENTS: self._squares / self._count, INPUT_MEANS: self._sums / self._count}


class _Rows:
    """Rows of a matrix that are there."""

    def __init__(self, rows: Array) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def taken(self, chosen: npt.NDArray[np.intp]) -> Array:
        """Some of them, (rows, numbers)."""
        return np.asarray(self._rows[chosen])


class _Windows:
    """Windows of an image, which are made when they are taken."""

    def __init__(self, view: Array, rank: int) -> None:
        self._view, self._rank = view, rank
        self._places = (view.shape[0], *view.shape[2 : 2 + rank])

    def __len__(self) -> int:
        return math.prod(self._places)

    def taken(self, chosen: npt.NDArray[np.intp]) -> Array:
        """Some of them, (windows, channels, taps ...)."""
        image, *place = np.unravel_index(chosen, self._places)
        index: tuple[Any, ...] = (image, slice(None), *place)
        return np.asarray(self._view[index])


def _add(all_of: Sequence[_Moments], x: Array) -> None:
    for moments in all_of:
        moments.add(x)


def _some(count: int, most: int) -> npt.NDArray[np.intp]:
    """The numbers below ``count``, or so many of them: always the same."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).choice(count, most, replace=False))


def _rows(node: ir.Node, x: Array) -> _Rows:
    if node.op_type == "Gemm" and int_attribute(node, "transA", 0):
        return _Rows(x.T)
    return _Rows(x.reshape(-1, x.shape[-1]))


def _windows(node: ir.Node, x: Array) -> _Windows:
    kernel, rank = _shape(node)[2:], x.ndim - 2
    strides, dilations = ints_attribute(node, "strides", [1] * rank), ints_attribute(node, "dilations", [1] * rank)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    pads = _pads(node, x.shape[2:], reach, strides)
    padded = np.pad(x, [(0, 0), (0, 0), *pads])
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    steps = [slice(None, None, step) for step in (*strides, *dilations)]
    return _Windows(view[(slice(None), slice(None), *steps)], rank)


def _pads(node: ir.Node, image: Sequence[int], reach: Sequence[int], strides: Sequence[int]) -> list[tuple[int, int]]:
    """Of a Conv, in front and behind, along each axis."""
    rank, automatic = len(image), text_attribute(node, "auto_pad", "NOTSET")
    if automatic == "VALID":
        return [(0, 0)] * rank
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        found = []
        for side, size, stride in zip(image, reach, strides, strict=True):
            total = max((-(-side // stride) - 1) * stride + size - side, 0)
            front = total // 2 if automatic == "SAME_UPPER" else total - total // 2
            found.append((front, total - front))
        return found
    pads = ints_attribute(node, "pads", [0] * 2 * rank)
    return list(zip(pads[:rank], pads[rank:], strict=True))


def _has_moments(node: ir.Node) -> bool:
    """Whether a node is a Conv, Gemm or MatMul by constant weights, all of which sum over one axis of its input."""
    if node.domain != "" or node.op_type not in PRODUCTS - {"ConvTranspose"}:
        return False
    return is_float_constant(node.inputs[1]) and (node.op_type != "MatMul" or len(_shape(node)) <= 2)


def _source(node: ir.Node) -> str:
    value = node.inputs[0]
    return "" if value is None else str(value.name)


def _shape(node: ir.Node) -> tuple[int, ...]:
    """Of the weights."""
    weights = node.inputs[1]
    assert weights is not None
    assert weights.const_value is not None
    return tuple(weights.const_value.shape.numpy())


def _sides(node: ir.Node) -> tuple[int, int]:
    """How many groups of inputs a product has, and how many numbers a result of it is a sum over."""
    shape = _shape(node)
    if node.op_type == "Conv":
        return int_attribute(node, "group", 1), math.prod(shape[1:])
    return 1, shape[1] if node.op_type == "Gemm" and int_attribute(node, "transB", 0) else shape[0]
