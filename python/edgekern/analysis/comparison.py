"""Compare a program with its float model, layer by layer, on the integers that it really computed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx

from edgekern._arrays import Lent, as_array, is_array, plain, unnamed
from edgekern._core import DType, StepKind, TensorDef
from edgekern.artifact import Program, TensorInfo
from edgekern.calibration.runner import FloatRunner
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning
from edgekern.graph.families import CLAMPS
from edgekern.graph.model import model_hash, open_model
from edgekern.ops import quantize_linear
from edgekern.runtime import InferenceSession

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike
    from edgekern.graph.skeleton import Skeleton

Array = npt.NDArray[Any]
Feeds = Mapping[str, Lent]

# Steps that compute something; the others move bytes and repeat their input's error.
_MOVES = frozenset({StepKind.SLICE, StepKind.PAD, StepKind.TRANSPOSE, StepKind.DEQUANTIZE, StepKind.DEQUANTIZE_NCHW})
_IMAGE_PRODUCTS = frozenset({StepKind.CONV, StepKind.DEPTHWISE})


@dataclass(frozen=True)
class ErrorRow:
    """How far one layer is from float.

    Attributes
    ----------
    name : name of the ONNX node
    tensor : the float tensor that was compared
    op : the ONNX operators that the step does
    path : the code that ran: "tile", "thin", "gemv", "lookup", ...
    sqnr_db : signal to quantization noise in dB; infinite where nothing differs
    cosine : cosine of the angle between float and integer result
    max_error : largest absolute difference
    """

    name: str
    tensor: str
    op: str
    path: str
    sqnr_db: float
    cosine: float
    max_error: float


@dataclass(frozen=True)
class ErrorReport:
    """Rows of :func:`compare`, worst SQNR first; ``str()`` is the table."""

    rows: tuple[ErrorRow, ...]
    feeds: int

    def worst(self, count: int = 10) -> tuple[ErrorRow, ...]:
        return self.rows[:count]

    def __str__(self) -> str:
        names = max((len(row.name) for row in self.rows), default=5)
        ops = max((len(row.op) for row in self.rows), default=9)
        head = f"{'layer':<{names}}  {'operators':<{ops}}  path         SQNR dB    cosine  max error"
        lines = [
            f"{row.name:<{names}}  {row.op:<{ops}}  {row.path:<11}{row.sqnr_db:>9.2f}{row.cosine:>10.6f}"
            f"{row.max_error:>11.4g}"
            for row in self.rows
        ]
        return "\n".join([head, *lines, f"INT8 against float32 on {self.feeds} feeds, worst first"])


@dataclass
class _Sums:
    """What the three figures need of a layer, added up over all feeds in float64."""

    signal: float = 0.0
    noise: float = 0.0
    other: float = 0.0
    product: float = 0.0
    max_error: float = 0.0

    def add(self, real: Array, ours: Array) -> None:
        x, y = real.astype(np.float64).reshape(-1), ours.astype(np.float64).reshape(-1)
        error = y - x
        self.signal += float(x @ x)
        self.other += float(y @ y)
        self.product += float(x @ y)
        self.noise += float(error @ error)
        self.max_error = max(self.max_error, float(np.abs(error).max(initial=0)))

    @property
    def sqnr_db(self) -> float:
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal else -math.inf

    @property
    def cosine(self) -> float:
        lengths = math.sqrt(self.signal) * math.sqrt(self.other)
        return self.product / lengths if lengths else float(self.signal == self.other)


@dataclass(frozen=True)
class _Layer:
    """A step and the float tensor that it stands for."""

    step: int
    tensor: str
    definition: TensorDef
    nhwc: bool
    sums: _Sums = field(default_factory=_Sums)

    def real(self, stored: Array) -> Array:
        """The values of the integers, in ONNX's order."""
        d = self.definition
        if d.dtype in (DType.U8, DType.S8):
            stored = (stored.astype(np.int32) - d.zero_point).astype(np.float32) * np.float32(d.scale)
        return stored.transpose(0, 3, 1, 2) if self.nhwc else stored


def compare(float_model: ModelLike, program: Program, data: Iterable[Feeds] | Feeds) -> ErrorReport:
    """Run both on the same data and compare every tensor that both have.

    Parameters
    ----------
    float_model : path, bytes or onnx.ModelProto
        The model before quantization; onnxruntime runs it. Or the QDQ model that the program was compiled from, known
        by what :func:`edgekern.quantize` wrote into its metadata: the float model, the config and the ranges. A file
        that was edited behind that still passes.
    program : Program
    data : feeds by input name, or an iterable of them; their batch is the program's. Those of ``float_model``: inputs
        that the program takes as 8 bits are quantized for it.

    Returns
    -------
    ErrorReport
        A row a layer. The integers are those in the arena after each step, not a simulation.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type, the data is empty, no layer of the program runs on a kernel, or it was made
        of another float model, or has no tensor in common with it.

    Warns
    -----
    EdgekernWarning
        When the program does not say which float model it was made of: its QDQ model is of another tool.
    """
    if not isinstance(program, Program):
        raise ArgumentTypeError(
            f"compare: program must be a Program, got {type(program).__name__}; see edgekern.compile"
        )
    model = open_model(float_model, function="compare")
    names = [info.name for info in program.inputs]
    if is_array(data) or not isinstance(data, Iterable):
        raise unnamed("compare", "data", data, names)
    _require_same_model(model, program)
    layers = _common_layers(model.proto, program)
    if not layers and all(step.kind in _MOVES | {StepKind.CONSTANT} for step in program.index.steps):
        raise ArgumentValueError(
            "compare: no layer of program runs on a kernel of edgekern's, so there is nothing to compare; "
            "program.host_steps says why, and a float model goes through edgekern.quantize first"
        )
    if not layers:
        raise ArgumentValueError("compare: program and float_model have no tensor in common; is it another model?")
    wanted = sorted({layer.tensor for layer in layers.values()})
    fed = {value.name for value in model.inputs}
    reference = FloatRunner(model, [name for name in wanted if name not in fed], function="compare")
    session = InferenceSession(program)
    types = {value.name: value.type.tensor_type.elem_type for value in model.inputs}
    borders = {i.name: i for i in program.inputs if i.scale and types.get(i.name) == onnx.TensorProto.FLOAT}
    count = 0
    for feeds in [data] if isinstance(data, Mapping) else data:
        if not isinstance(feeds, Mapping):
            raise unnamed("compare", "each of data", feeds, names)
        arrays = {name: _contiguous(f"input {name!r}", array) for name, array in feeds.items()}
        # Says what is wrong with them before onnxruntime does.
        steps = session.trace({name: _as_codes(array, borders.get(name)) for name, array in arrays.items()})
        real = {**arrays, **_float_run(reference, arrays)}
        for step, stored in steps:
            if step in layers:
                _add(layers[step], real, stored)
        count += 1
    if count == 0:
        raise ArgumentValueError("compare: data is empty; give at least one feed")
    paths = session.paths
    rows = [_row(program, paths, layer) for layer in layers.values()]
    return ErrorReport(tuple(sorted(rows, key=lambda row: row.sqnr_db)), count)


def _contiguous(argument: str, given: Lent) -> Array:
    return plain("compare", argument, as_array("compare", argument, given))


def _as_codes(array: Array, border: TensorInfo | None) -> Array:
    """What a program with 8 bits at its borders takes of what the float model is fed."""
    if border is None or array.dtype != np.float32:
        return array
    assert border.scale is not None
    assert border.zero_point is not None
    return quantize_linear(array, border.scale, border.zero_point, dtype=border.dtype)


def _require_same_model(model: Skeleton, program: Program) -> None:
    quantization = program.manifest.quantization
    if quantization and quantization in (entry.value for entry in model.proto.metadata_props):
        return  # the QDQ model itself, which computes what the program does
    wanted = program.manifest.float_model_hash
    if wanted is None:
        warnings.warn(
            "compare: program does not say which float model it was made of (another tool wrote its QDQ model, or an "
            "older edgekern did), so nothing shows that float_model is the one; edgekern.quantize writes it down",
            EdgekernWarning,
            stacklevel=3,
        )
        return
    found = model_hash(model)
    if wanted != found:
        raise ArgumentValueError(
            f"compare: program was made of another model (hash {wanted[:12]}..., float_model has {found[:12]}...); "
            "give the float model that was quantized"
        )


def _float_run(reference: FloatRunner, feeds: Mapping[str, Array]) -> dict[str, Array]:
    try:
        return {name: array.copy() for values in reference.run(feeds) for name, array in values.items()}
    except Exception as error:  # onnxruntime raises a class per status, all private
        raise ArgumentValueError(
            f"compare: float_model cannot run the feeds that program takes: {' '.join(str(error).split())}"
        ) from error


def _add(layer: _Layer, real: Mapping[str, Array], stored: Array) -> None:
    expected, ours = real[layer.tensor], layer.real(stored)
    if expected.size != ours.size:
        raise ArgumentValueError(
            f"compare: '{layer.tensor}' has shape {expected.shape} in float_model and {ours.shape} in program; is it "
            "another model?"
        )
    layer.sums.add(expected, ours)


def _row(program: Program, paths: Sequence[str], layer: _Layer) -> ErrorRow:
    info, sums = program.steps[layer.step], layer.sums
    return ErrorRow(info.name, layer.tensor, info.op, paths[layer.step], sums.sqnr_db, sums.cosine, sums.max_error)


def _common_layers(model: onnx.ModelProto, program: Program) -> dict[int, _Layer]:
    """Steps by number, with the float tensor that each computes."""
    index, named = program.index, program.manifest.layers
    known = {name for node in model.graph.node for name in node.output} | {value.name for value in model.graph.input}
    held = {name for names in named.values() for name in names}
    clamped = _clamped(model)
    tensors, layers = index.tensors, {}
    for number, step in enumerate(index.steps):
        result = step.outputs[0]
        tensor = next((name for name in named.get(result, ()) if name in known), None)
        if tensor is None or step.kind in _MOVES:
            continue
        definition = tensors[result]
        lowest = {DType.U8: 0, DType.S8: -128}.get(definition.dtype)
        # Tools that drop a Relu because the range says it all keep the name of the tensor before it.
        if tensor in clamped and clamped[tensor] not in held and definition.zero_point == lowest:
            tensor = clamped[tensor]
        nhwc = len(definition.shape) == 4 and (definition.dtype != DType.F32 or step.kind in _IMAGE_PRODUCTS)
        layers[number] = _Layer(number, tensor, definition, nhwc)
    return layers


def _clamped(model: onnx.ModelProto) -> dict[str, str]:
    """Tensors that only a Relu or Clip reads, and its result."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    return {
        name: nodes[0].output[0]
        for name, nodes in readers.items()
        if len(nodes) == 1 and nodes[0].op_type in CLAMPS and name not in outputs
    }
