"""Borders of bytes: inputs and outputs of a model that callers give and take as codes, without a pass over floats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import onnx_ir as ir

from edgekern.calibration import Ranges
from edgekern.calibration.ranges import TensorRange
from edgekern.errors import QuantizationError
from edgekern.graph.families import RESHAPES
from edgekern.graph.initializers import free_name, new_initializer
from edgekern.graph.values import HALVES, constant, sole_consumer
from edgekern.quantization.config import Border, Borders, QuantConfig
from edgekern.quantization.encodings import Encoding
from edgekern.quantization.place_qdq import Placement

_TYPES = {"uint8": ir.DataType.UINT8, "int8": ir.DataType.INT8}
_BRIGHTEST, _DIM = 255.0, 127.5  # an input that stays below the one and passes the other holds pixels


@dataclass(frozen=True)
class ByteBorders:
    """The tensors of a prepared graph that become codes at its borders.

    Attributes
    ----------
    inputs, outputs : the float32 tensor that a graph input or output is, or is made of by a Cast, and its type
    """

    inputs: Mapping[ir.Value, Border]
    outputs: Mapping[ir.Value, Border]

    @staticmethod
    def of(graph: ir.Graph, config: QuantConfig, *, function: str) -> ByteBorders:
        """What a configuration asks for.

        Raises
        ------
        QuantizationError
            When a name is none of the model's, or its tensor is not float32 or both an input and an output.
        """
        inputs = {str(value.name): _behind_cast(value) for value in graph.inputs}
        outputs = {str(value.name): _before_cast(value) for value in graph.outputs}
        return ByteBorders(
            _chosen(config.inputs, inputs, "input", function), _chosen(config.outputs, outputs, "output", function)
        )

    def placed(self, placement: Placement) -> Placement:
        """The placement with these tensors on 8 bits, too; what only reshapes an output passes its scale on."""
        source = dict(placement.source)
        for value in self.inputs:
            source.setdefault(value, value)
        for value in self.outputs:
            if value in source:
                continue
            source[value] = value
            node, reader = value.producer(), value
            while node is not None and node.op_type in RESHAPES and (before := node.inputs[0]) is not None:
                if before in source or before.is_graph_input() or sole_consumer(before) is not reader.producer():
                    break
                source[before] = value
                node, reader = before.producer(), before
        return replace(placement, source=source)

    def encoded(
        self, placement: Placement, encodings: Mapping[ir.Value, Encoding], ranges: Ranges
    ) -> dict[ir.Value, Encoding]:
        """Encodings of the types that are asked for, the same numbers in other codes; pixels have scale 1."""
        wanted = {placement.source[value]: border for value, border in (*self.outputs.items(), *self.inputs.items())}
        pixels = {placement.source[value] for value in self.inputs}
        made = {}
        for value, encoding in encodings.items():
            owner = placement.source[value]
            if owner in pixels and _holds_pixels(ranges.get(str(owner.name))):
                encoding = Encoding(1.0, signed=False)
            made[value] = _coded(encoding, wanted[owner]) if owner in wanted else encoding
        return made

    def write(self, graph: ir.Graph) -> None:
        """Leave out the QuantizeLinear of inputs and the DequantizeLinear of outputs, which stand there by now."""
        for value in self.inputs:
            _give_codes(graph, value)
        for at, value in enumerate(graph.outputs):
            quantize = _codes_behind(value)
            source = None if quantize is None else quantize.inputs[0]
            if quantize is not None and source is not None and source in self.outputs:
                _take_codes(graph, at, quantize, self.outputs[source])


def _chosen(wanted: Borders, values: Mapping[str, ir.Value], what: str, function: str) -> dict[ir.Value, Border]:
    named = isinstance(wanted, Mapping)
    borders: Mapping[str, Border] = wanted if isinstance(wanted, Mapping) else dict.fromkeys(values, wanted)
    found: dict[ir.Value, Border] = {}
    for name, border in borders.items():
        if name not in values:
            raise QuantizationError(f"{function}: model has no {what} {name!r}; its {what}s are {list(values)}")
        value = values[name]
        if border == "float32":
            continue
        if value.dtype != ir.DataType.FLOAT:
            if not named:
                continue  # indices, lengths, masks
            kind = "of unknown type" if value.dtype is None else value.dtype.name
            raise QuantizationError(f"{function}: {what} {name!r} is {kind}, and only floats become {border}")
        if value.is_initializer():
            raise QuantizationError(f"{function}: {what} {name!r} is a constant; leave it float32")
        if value.is_graph_input() and value.is_graph_output():
            raise QuantizationError(f"{function}: {what} {name!r} is an input and an output; leave both float32")
        found[value] = border
    return found


def _behind_cast(value: ir.Value) -> ir.Value:
    cast = sole_consumer(value) if value.dtype in HALVES else None
    return cast.outputs[0] if cast is not None and cast.op_type == "Cast" else value


def _before_cast(value: ir.Value) -> ir.Value:
    cast = value.producer() if value.dtype in HALVES else None
    source = cast.inputs[0] if cast is not None and cast.op_type == "Cast" else None
    return value if source is None else source


def _holds_pixels(seen: TensorRange | None) -> bool:
    return seen is not None and seen.lo == 0 and _DIM < seen.hi <= _BRIGHTEST


def _coded(encoding: Encoding, border: Border) -> Encoding:
    signed = border == "int8"
    if encoding.signed == signed:
        return encoding
    return Encoding(encoding.scale, int(encoding.zero_point) + (-128 if signed else 128), signed=signed)


def _give_codes(graph: ir.Graph, value: ir.Value) -> None:
    """Let the caller give what a QuantizeLinear would make of an input."""
    [quantize] = [use.node for use in value.uses() if use.node.op_type == "QuantizeLinear"]
    cast = value.producer()
    given = value if cast is None else cast.inputs[0]
    assert given is not None
    codes = ir.Value(
        name=given.name, shape=given.shape, type=ir.TensorType(quantize.outputs[0].dtype or _TYPES["uint8"])
    )
    quantize.outputs[0].replace_all_uses_with(codes)
    [dequantize] = [use.node for use in codes.uses() if use.node.op_type == "DequantizeLinear"]
    for use in [use for use in value.uses() if use.node is not quantize]:  # what stays float reads what there is
        use.node.replace_input_with(use.idx, dequantize.outputs[0])
    graph.inputs[next(at for at, other in enumerate(graph.inputs) if other is given)] = codes
    for node in (quantize, cast):
        if node is not None:
            graph.remove(node, safe=True)


def _codes_behind(value: ir.Value) -> ir.Node | None:
    """The QuantizeLinear whose codes an output dequantizes, and perhaps casts to halves."""
    node = _before_cast(value).producer()
    codes = node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else None
    quantize = None if codes is None else codes.producer()
    return quantize if quantize is not None and quantize.op_type == "QuantizeLinear" else None


def _take_codes(graph: ir.Graph, at: int, quantize: ir.Node, border: Border) -> None:
    """Let the caller take the codes of an output; they are made anew where the tensor has those of another type."""
    given, codes = graph.outputs[at], quantize.outputs[0]
    restored = _before_cast(given)
    name, dequantize = str(given.name), restored.producer()
    assert dequantize is not None
    if codes.dtype != _TYPES[border] or codes.is_graph_output():
        scale, zero = quantize.inputs[1:3]
        if codes.dtype != _TYPES[border]:
            codes_of = Encoding(1.0, _number(zero), signed=codes.dtype == ir.DataType.INT8)
            shifted = _coded(codes_of, border)
            zero = new_initializer(graph, f"{name}_zero_point", shifted.zero_point.astype(shifted.dtype))
        result = ir.Value(shape=given.shape, type=ir.TensorType(_TYPES[border]))
        label = free_name(graph, f"{name}_QuantizeLinear")
        again = ir.Node("", "QuantizeLinear", [restored, scale, zero], outputs=[result], name=label)
        graph.insert_after(dequantize, again)
        codes = result
    graph.outputs[at] = codes
    given.name, codes.name = free_name(graph, f"{name}_float"), name
    for node in dict.fromkeys((given.producer(), dequantize)):
        if node is not None and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def _number(value: ir.Value | None) -> int:
    array = constant(value)
    assert array is not None
    return int(array)
