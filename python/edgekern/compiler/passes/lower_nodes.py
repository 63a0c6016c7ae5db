"""From placed ONNX nodes to kernel steps and host nodes."""

from __future__ import annotations

import onnx_ir as ir

from edgekern._core import DType, StepKind
from edgekern.calibration.skeleton import Skeleton
from edgekern.compiler.passes.lower_arithmetic import add_step, concat_step, lookup, pool_step, table_of
from edgekern.compiler.passes.lower_moves import in_onnx_order, move, to_nhwc, view
from edgekern.compiler.passes.lower_products import product_step
from edgekern.compiler.placement import Placement, Role, host_operands
from edgekern.compiler.steps import NHWC, HostNode, Item, KernelStep, Tensor, dtype_of
from edgekern.errors import CompileError
from edgekern.graph.values import Quant, is_code, known_shape, label, operands, shape_of

_DTYPES = {
    ir.DataType.UINT8: DType.U8,
    ir.DataType.INT8: DType.S8,
    ir.DataType.INT32: DType.I32,
    ir.DataType.FLOAT: DType.F32,
    ir.DataType.INT64: DType.I64,
    ir.DataType.BOOL: DType.BOOL,
    ir.DataType.DOUBLE: DType.F64,
}


class Lowering:
    """Walks the nodes in order; every value that is needed becomes a tensor once.

    Attributes
    ----------
    items : kernel steps and host nodes, each after those it reads
    inputs, outputs : tensors of the graph's borders, as ONNX has them
    """

    def __init__(self, graph: ir.Graph, placement: Placement, model: Skeleton) -> None:
        self.graph, self.placement, self.model = graph, placement, model
        self.items: list[Item] = []
        self._stored: dict[ir.Value, Tensor] = {}
        self._images: dict[Tensor, Tensor] = {}
        self._plain: dict[ir.Value, Tensor] = {}
        self._hosts: dict[ir.Node, HostNode] = {}
        self.inputs = {str(value.name): self._border(value) for value in graph.inputs}
        for node in graph:
            self._lower(node)
        self.outputs = [self.plain(value) for value in graph.outputs]

    def emit(self, step: KernelStep) -> Tensor:
        self.items.append(step)
        return step.output

    def native(self, value: ir.Value) -> Tensor:
        """A value as 8-bit, images as NHWC."""
        x = self.stored(value)
        if len(x.shape) != 4 or x.order == NHWC:
            return x
        if x not in self._images:
            self._images[x] = to_nhwc(self, x)
        return self._images[x]

    def stored(self, value: ir.Value) -> Tensor:
        """A value as 8-bit, in the order in which it was made."""
        return self._stored[value] if value in self._stored else self.plain(value)

    def plain(self, value: ir.Value) -> Tensor:
        """A value as ONNX has it."""
        if value in self._plain:
            return self._plain[value]
        role = self.placement.role_of(value)
        if role is Role.BYTES:
            native = self._stored[value]
            tensor = in_onnx_order(self, native) if is_code(value) else self._dequantized(native, value)
        elif value.producer() in self._hosts:
            tensor = self._border(value)
        else:
            raise CompileError(f"compile: output '{value.name}' does not depend on the inputs; there is nothing to run")
        self._plain[value] = tensor
        return tensor

    def _border(self, value: ir.Value) -> Tensor:
        """A tensor that the caller or a host step fills."""
        shape = shape_of(value)
        if shape is None:
            raise CompileError(
                f"compile: the shape of '{value.name}' is not known before the model runs; a program needs fixed shapes"
            )
        if value.dtype not in _DTYPES:
            kind = "unknown" if value.dtype is None else value.dtype.name
            raise CompileError(f"compile: '{value.name}' has type {kind}, which a program cannot hold")
        tensor = Tensor(str(value.name), _DTYPES[value.dtype], shape)
        self._plain[value] = tensor
        producer = value.producer()
        if producer is not None:
            self._hosts[producer].outputs[value] = tensor
        return tensor

    def _lower(self, node: ir.Node) -> None:
        p = self.placement
        if node in p.hosts:
            host = HostNode(node, p.reasons[node], reads=tuple(host_operands(node)))
            for value in host.reads:
                if value.producer() not in p.hosts or value in self._plain:
                    host.inputs[value] = self.plain(value)
            self._hosts[node] = host
            self.items.append(host)
        for value in node.outputs:
            role = p.role_of(value)
            if value in p.native and role is Role.BYTES:
                self._stored[value] = tensor = self._bytes(node, value)
                if str(value.name) not in tensor.names and not is_code(value):
                    tensor.names.append(str(value.name))
            elif value in p.plain and role is Role.PRODUCT:
                self._plain[value] = self._product(value, None)
            elif value in p.plain and role is Role.FLOAT:
                self._plain[value] = move(self, node, value, self.plain(next(operands(node))))

    def _bytes(self, node: ir.Node, value: ir.Value) -> Tensor:
        """An 8-bit result."""
        op, quant = node.op_type, self.placement.quant[value]
        if op == "QuantizeLinear":
            return self._quantized(node, quant)
        if op == "Concat":
            pieces = [self.native(v) for v in node.inputs if v is not None]
            return concat_step(self, node, [node], pieces, pieces[0].quant or quant)
        source = next(operands(node))
        if op in ("MaxPool", "GlobalMaxPool"):
            return pool_step(self, node, [node], self.native(source), quant, average=False)
        x = self.stored(source)
        if op == "DequantizeLinear":
            return x if x.quant == quant else view(x, quant=quant, dtype=dtype_of(quant))
        if op == "Relu":
            x = view(x, quant=quant) if x.quant is None else x
            return lookup(self, x, quant, quant.quantize(quant.dequantize(quant.codes()).clip(0)), node, [node])
        return move(self, node, value, x)

    def _quantized(self, node: ir.Node, quant: Quant) -> Tensor:
        """The result of a QuantizeLinear, computed where its input is computed if that can be."""
        p, x = self.placement, node.inputs[0]
        assert x is not None
        role = p.role_of(x)
        if role is Role.BYTES:
            tensor = lookup(self, self.stored(x), quant, None, node, [node])
        elif role is Role.TABLE:
            root = self.stored(p.root[x])
            table, nodes = table_of(self.model, x, p.root[x], root.q, quant)
            tensor = lookup(self, root, quant, table, nodes[0], nodes)
        elif role is Role.PRODUCT and p.fuses(node):
            tensor = self._product(x, quant)
        elif role is Role.PENDING:
            tensor = self._pending(x, quant)
        else:
            tensor = self._quantized_float(self.plain(x), node, quant)
        if str(x.name) not in tensor.names:
            tensor.names.append(str(x.name))
        return tensor

    def _product(self, value: ir.Value, quant: Quant | None) -> Tensor:
        chain = self.placement.chain[value]
        data = chain.nodes[0].inputs[0]
        assert data is not None
        return product_step(self, chain, value, self.native(data), quant)

    def _pending(self, value: ir.Value, quant: Quant) -> Tensor:
        chain = self.placement.chain[value]
        first = chain.nodes[0]
        if first.op_type == "Add":
            return add_step(self, chain, quant)
        if first.op_type == "Concat":
            pieces = [self.native(v) for v in first.inputs if v is not None]
            return self._clamped(concat_step(self, first, chain.nodes, pieces, quant), chain.clamps, quant, first)
        data = first.inputs[0]
        assert data is not None
        mean = pool_step(self, first, chain.nodes, self.native(data), quant, average=True)
        mean = self._clamped(mean, chain.clamps, quant, first)
        shape = known_shape(value)
        return mean if len(shape) == 4 else view(mean, shape=shape, order=())

    def _clamped(self, x: Tensor, clamps: list[tuple[float, float]], quant: Quant, node: ir.Node) -> Tensor:
        """Clamp codes; the steps before have no clamp of their own. Quantizing keeps order, so it may come first."""
        codes = quant.codes()
        for lo, hi in clamps:
            codes = codes.clip(quant.quantize(lo), quant.quantize(hi))
        return lookup(self, x, quant, codes, node, []) if clamps else x

    def _quantized_float(self, x: Tensor, node: ir.Node, quant: Quant) -> Tensor:
        image = len(x.shape) == 4
        shape = tuple(x.shape[axis] for axis in NHWC) if image else x.shape
        y = Tensor(x.name, dtype_of(quant), shape, quant, NHWC if image else ())
        if not image:
            return self.emit(KernelStep(StepKind.QUANTIZE, label(node), node.op_type, [x], y))
        batch, channels, height, width = x.shape
        sizes = {"batch": batch, "channels": channels, "pixels": height * width}
        return self.emit(KernelStep(StepKind.QUANTIZE_NCHW, label(node), node.op_type, [x], y, arguments=sizes))

    def _dequantized(self, x: Tensor, value: ir.Value) -> Tensor:
        name, shape = str(value.name), known_shape(value)
        if x.quant is None:
            x = view(x, quant=self.placement.quant[value])
        if x.flat is not None:
            x = in_onnx_order(self, x)
        y = Tensor(name, DType.F32, shape)
        if x.order != NHWC:
            return self.emit(KernelStep(StepKind.DEQUANTIZE, name, "DequantizeLinear", [x], y))
        batch, height, width, channels = x.shape
        sizes = {"batch": batch, "channels": channels, "pixels": height * width}
        return self.emit(KernelStep(StepKind.DEQUANTIZE_NCHW, name, "DequantizeLinear", [x], y, arguments=sizes))
