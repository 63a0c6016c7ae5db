"""What lowering knows while it walks: steps made so far, and the tensor that each value has become."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern._core import DType, StepKind
from edgekern.compiler.layout import in_onnx_order, to_channels_last, transposed, view
from edgekern.compiler.roles import Placement, Role
from edgekern.compiler.steps import NHWC, HostNode, Item, KernelStep, Tensor
from edgekern.errors import CompileError
from edgekern.graph.evaluate import evaluate
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import (
    Quant,
    captured,
    constant_or_dequantized,
    consumers,
    is_code,
    known_shape,
    leading_to,
    quantization,
    shape_of,
)

Array = npt.NDArray[Any]

DTYPES = {
    ir.DataType.UINT8: DType.U8,
    ir.DataType.INT8: DType.S8,
    ir.DataType.INT32: DType.I32,
    ir.DataType.FLOAT: DType.F32,
    ir.DataType.INT64: DType.I64,
    ir.DataType.BOOL: DType.BOOL,
    ir.DataType.DOUBLE: DType.F64,
    ir.DataType.FLOAT16: DType.F16,
    ir.DataType.BFLOAT16: DType.BF16,
}


# Emits the steps of a node and its chain for one of its values: as 8-bit of a scale, or (None) as ONNX has it.
Lower = Callable[["Lowering", ir.Node, ir.Value, Quant | None], Tensor]


class Lowering:
    """Every value that is needed becomes a tensor once.

    Parameters
    ----------
    lower : what each operator does

    Attributes
    ----------
    items : kernel steps and host nodes, each after those it reads
    inputs : tensors of the graph's inputs, as ONNX has them
    """

    def __init__(self, graph: ir.Graph, placement: Placement, model: Skeleton, lower: Mapping[str, Lower]) -> None:
        self.placement, self.model = placement, model
        self.items: list[Item] = []
        self._lower = lower
        self._stored: dict[ir.Value, Tensor] = {}
        self._images: dict[Tensor, Tensor] = {}
        self._real: dict[ir.Value, Tensor] = {}
        self._plain: dict[ir.Value, Tensor] = {}
        self._shared: dict[Hashable, Tensor] = {}
        self._hosts: dict[ir.Node, HostNode] = {}
        self.inputs = {str(value.name): self._border(value) for value in graph.inputs}

    def emit(self, step: KernelStep) -> Tensor:
        self.items.append(step)
        return step.output

    def compute(self, value: ir.Value, quant: Quant | None) -> Tensor:
        """A value that a kernel computes: as 8-bit of ``quant``, or (None) as ONNX has it."""
        chain = self.placement.chain.get(value)
        node = value.producer() if chain is None else chain.nodes[0]
        assert node is not None
        return self._lower[node.op_type](self, node, value, quant)

    def native(self, value: ir.Value) -> Tensor:
        """A value as 8-bit, images as NHWC."""
        x = self.stored(value)
        return self._image(x) if len(x.shape) == 4 else x

    def native_image(self, value: ir.Value) -> Tensor:
        """A value as 8-bit with its channels last, an image over any dimensions."""
        return self._image(self.stored(value))

    def alike(self, values: Sequence[ir.Value]) -> list[Tensor]:
        """Values of one rank as 8-bit, in one order: images with their channels last, others where one of them is."""
        tensors = [self.native(value) for value in values]
        mixed = len({x.order for x in tensors}) > 1
        return [self._image(x) for x in tensors] if mixed else tensors

    def stored(self, value: ir.Value) -> Tensor:
        """A value as 8-bit, in the order in which it was made."""
        return self._stored[value] if value in self._stored else self.plain(value)

    def real(self, value: ir.Value) -> Tensor:
        """A value of ONNX's type, in the order in which it was made."""
        if value in self._real:
            return self._real[value]
        if value in self._plain or self.placement.role_of(value) is not Role.BYTES or is_code(value):
            return self.plain(value)
        x = self._stored[value]
        if x.flat is not None or not x.order:
            return self.plain(value)
        y = Tensor(str(value.name), DType.F32, x.shape, order=x.order)
        x = view(x, quant=self.placement.quant[value]) if x.quant is None else x
        self._real[value] = self.emit(KernelStep(StepKind.DEQUANTIZE, y.name, "DequantizeLinear", [x], y))
        return y

    def image(self, value: ir.Value) -> Tensor:
        """A value of ONNX's type with its channels last."""
        return self._image(self.real(value))

    def ordered(self, value: ir.Value, order: tuple[int, ...]) -> Tensor:
        """A value of ONNX's type, of so many axes as ``order`` by ones in front, and in that order."""
        x, rank = self.real(value), len(order)
        plain = tuple(range(rank))
        if len(x.shape) == rank and (x.order or plain) == order:
            return x
        if order == plain:
            return self.plain(value)
        if len(x.shape) == rank:
            return self._image(x)
        x = self.plain(value)
        x = view(x, shape=(1,) * (rank - len(x.shape)) + x.shape)
        return transposed(self, x, order, order, f"{x.name} to NHWC")

    def _image(self, x: Tensor) -> Tensor:
        if x not in self._images:
            self._images[x] = to_channels_last(self, x)
        return self._images[x]

    def plain(self, value: ir.Value) -> Tensor:
        """A value as ONNX has it."""
        if value in self._plain:
            return self._plain[value]
        role = self.placement.role_of(value)
        if value in self._real:
            tensor = in_onnx_order(self, self._real[value])
        elif role is Role.BYTES:
            native = self._stored[value]
            tensor = in_onnx_order(self, native) if is_code(value) else self._dequantized(native, value)
        elif value.producer() in self._hosts:
            tensor = self._border(value)
        else:
            tensor = self._constant(value)
        self._plain[value] = tensor
        return tensor

    def constant(self, value: ir.Value) -> Array:
        """The array of a constant, of one that dequantized weights lead to, too."""
        array = constant_or_dequantized(value)
        if array is None:
            nodes = [ir.to_proto(node) for node in leading_to(value, lambda _: True)]
            stored = {tensor.name: tensor for tensor in self.model.proto.graph.initializer}
            [array] = evaluate(self.model, nodes, stored, [str(value.name)])
        return array

    def shared(self, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """What is made once for all that ask by one key: the results of a node, those who read one tensor."""
        if key not in self._shared:
            self._shared[key] = make()
        return self._shared[key]

    def keep_stored(self, value: ir.Value, tensor: Tensor) -> None:
        """A value has become this 8-bit tensor."""
        self._stored[value] = tensor

    def keep_real(self, value: ir.Value, tensor: Tensor) -> None:
        """A value has become this tensor of ONNX's type, in any order."""
        self._real[value] = tensor

    def add_host(self, node: ir.Node) -> None:
        """Leave a node to the host, behind what it reads."""
        hosts = self.placement.hosts
        host = HostNode(node, self.placement.reasons[node], reads=tuple(captured(node)))
        for value in host.reads:
            if value.producer() not in hosts or value in self._plain:
                host.inputs[value] = self.plain(value)
        self._hosts[node] = host
        self.items.append(host)

    def _border(self, value: ir.Value) -> Tensor:
        """A tensor that the caller or a host step fills."""
        shape = shape_of(value)
        if value.type is not None and not isinstance(value.type, ir.TensorType):
            raise CompileError(f"compile: '{value.name}' is a {value.type}, and a program holds tensors")
        if shape is None:
            raise CompileError(
                f"compile: the shape of '{value.name}' is not known before the model runs; a program needs fixed shapes"
            )
        tensor = Tensor(str(value.name), _dtype(value), shape, _border_quant(value))
        self._plain[value] = tensor
        producer = value.producer()
        if producer is not None:
            self._hosts[producer].outputs[value] = tensor
        return tensor

    def _constant(self, value: ir.Value) -> Tensor:
        """A constant that the caller wants: weights and anchors are outputs of many a model."""
        array = self.constant(value)
        tensor = Tensor(str(value.name), _dtype(value), array.shape)
        content = np.ascontiguousarray(array).tobytes()
        return self.emit(KernelStep(StepKind.CONSTANT, tensor.name, "Constant", [], tensor, [content]))

    def _dequantized(self, x: Tensor, value: ir.Value) -> Tensor:
        name, shape = str(value.name), known_shape(value)
        if x.quant is None:
            x = view(x, quant=self.placement.quant[value])
        if x.flat is not None or x.order not in ((), NHWC):
            x = in_onnx_order(self, x)
        y = Tensor(name, DType.F32, shape)
        if x.order != NHWC:
            return self.emit(KernelStep(StepKind.DEQUANTIZE, name, "DequantizeLinear", [x], y))
        batch, height, width, channels = x.shape
        sizes = {"batch": batch, "channels": channels, "pixels": height * width}
        return self.emit(KernelStep(StepKind.DEQUANTIZE_NCHW, name, "DequantizeLinear", [x], y, arguments=sizes))


def _border_quant(value: ir.Value) -> Quant | None:
    """What the codes that a caller gives stand for, where all that read them dequantize them so."""
    readers = consumers(value)
    if not value.is_graph_input() or value.is_graph_output() or not is_code(value):
        return None
    found = {quantization(node) if node.op_type == "DequantizeLinear" else "" for node in readers}
    quant = found.pop() if len(found) == 1 else None
    return quant if isinstance(quant, Quant) else None


def _dtype(value: ir.Value) -> DType:
    if value.dtype not in DTYPES:
        kind = "unknown" if value.dtype is None else value.dtype.name
        raise CompileError(f"compile: '{value.name}' has type {kind}, which a program cannot hold")
    return DTYPES[value.dtype]
