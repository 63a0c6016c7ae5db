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
from edgekern.analysis._borders import as_codes
from edgekern.analysis._rows import cut
from edgekern.analysis.error_report import Clipped, ErrorReport, ErrorRow, recommend
from edgekern.analysis.figures import Sums
from edgekern.artifact import Program
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
class _Layer:
    """A step and the float tensor that it stands for."""

    step: int
    tensor: str
    definition: TensorDef
    nhwc: bool
    sums: Sums = field(default_factory=Sums)
    own: Sums = field(default_factory=Sums)
    clipped: Clipped = field(default_factory=Clipped)

    @property
    def is_codes(self) -> bool:
        return self.definition.dtype in (DType.U8, DType.S8)

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value that the codes stand for."""
        d, (first, last) = self.definition, (0, 255) if self.definition.dtype == DType.U8 else (-128, 127)
        return (first - d.zero_point) * d.scale, (last - d.zero_point) * d.scale

    def real(self, stored: Array) -> Array:
        """The values of the integers, in ONNX's order."""
        d = self.definition
        if self.is_codes:
            stored = (stored.astype(np.int32) - d.zero_point).astype(np.float32) * np.float32(d.scale)
        return stored.transpose(0, 3, 1, 2) if self.nhwc else stored

    def stored(self, real: Array) -> Array | None:
        """The opposite: values as the program stores them; None where it stores them in a type of its own."""
        d = self.definition
        shape = (d.shape[0], d.shape[3], d.shape[1], d.shape[2]) if self.nhwc else tuple(d.shape)
        if real.dtype != np.float32 or not (self.is_codes or d.dtype == DType.F32):
            return None
        real = real.reshape(shape)
        real = np.ascontiguousarray(real.transpose(0, 2, 3, 1) if self.nhwc else real)
        if not self.is_codes:
            return real
        return quantize_linear(real, d.scale, d.zero_point, dtype=np.uint8 if d.dtype == DType.U8 else np.int8)


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
        A row a layer. The integers are those in the arena after each step, not a simulation. For the error of a layer's
        own, each step runs again on what the float model has for its inputs, rounded to the codes that it reads.

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
    shapes = {info.name: info.shape for info in program.inputs}
    for feeds in [data] if isinstance(data, Mapping) else data:
        if not isinstance(feeds, Mapping):
            raise unnamed("compare", "each of data", feeds, names)
        for part in cut(feeds, shapes):
            arrays = {name: _contiguous(f"input {name!r}", array) for name, array in part.items()}
            # Says what is wrong with them before onnxruntime does.
            codes = {name: as_codes(array, borders.get(name)) for name, array in arrays.items()}
            steps = session.trace(codes)
            real = {**arrays, **_float_run(reference, arrays)}
            for step, stored in steps:
                if step in layers:
                    _add(layers[step], real, stored)
            exact = _Exact(program, layers, real)
            for step, stored in session.trace(codes, given=exact.stored):
                if step in layers:
                    layers[step].own.add(real[layers[step].tensor], layers[step].real(stored))
        count += 1
    if count == 0:
        raise ArgumentValueError("compare: data is empty; give at least one feed")
    paths = session.paths
    makers = _makers(model.proto)
    rows = [_row(program, paths, layer, makers) for layer in layers.values()]
    return ErrorReport(tuple(sorted(rows, key=lambda row: row.sqnr_db)), count)


def _contiguous(argument: str, given: Lent) -> Array:
    return plain("compare", argument, as_array("compare", argument, given))


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
    if layer.is_codes:
        layer.clipped.add(expected, *layer.limits, layer.definition.scale)


class _Exact:
    """What the float model has for the tensors of a program, as they are stored there."""

    def __init__(self, program: Program, layers: Mapping[int, _Layer], real: Mapping[str, Array]) -> None:
        self._layers = {program.index.steps[number].outputs[0]: layer for number, layer in layers.items()}
        self._tensors, self._real = program.index.tensors, real
        self._written = {tensor for step in program.index.steps for tensor in step.outputs}

    def stored(self, tensor: int) -> Array | None:
        shape = tuple(self._tensors[tensor].shape)
        while tensor not in self._written and self._tensors[tensor].alias_of >= 0:
            tensor = self._tensors[tensor].alias_of
        layer = self._layers.get(tensor)
        stored = None if layer is None else layer.stored(self._real[layer.tensor])
        return None if stored is None or stored.size != math.prod(shape) else stored.reshape(shape)


def _makers(model: onnx.ModelProto) -> dict[str, str]:
    """What rules call the node that makes each tensor; of an input the first one that reads it."""
    found: dict[str, str] = {}
    for node in model.graph.node:
        called = node.name or node.output[0]
        found |= dict.fromkeys(node.output, called)
        for name in node.input:
            found.setdefault(name, called)
    return found


def _row(program: Program, paths: Sequence[str], layer: _Layer, makers: Mapping[str, str]) -> ErrorRow:
    info, sums, own = program.steps[layer.step], layer.sums, layer.own
    maker = makers.get(layer.tensor, info.name)
    return ErrorRow(
        name=info.name,
        tensor=layer.tensor,
        op=info.op,
        path=paths[layer.step],
        sqnr_db=sums.sqnr_db,
        cosine=sums.cosine,
        max_error=sums.max_error,
        mse=sums.mse,
        own_db=own.sqnr_db,
        own_cosine=own.cosine,
        own_max_error=own.max_error,
        clipped=layer.clipped.share,
        recommendation=recommend(
            info.name if info.name in makers.values() else maker,
            maker,
            sums.sqnr_db,
            own,
            layer.clipped,
            precision=program.precisions[layer.step],
            step=layer.definition.scale if layer.is_codes else 0.0,
        ),
    )


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
