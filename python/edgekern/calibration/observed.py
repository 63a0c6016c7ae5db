"""Which tensors of a model are watched while it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekern.graph.model import open_model

if TYPE_CHECKING:
    from edgekern.graph.model import ModelLike


def observed_tensors(model: ModelLike) -> list[str]:
    """Names of the tensors that calibration observes: float graph inputs, and float outputs of nodes, in graph order.

    Outputs of Constant nodes are weights, not activations, and are left out; so is what lies inside the bodies of If,
    Loop and Scan, and what neither onnx nor onnxruntime knows the type of.
    """
    import onnx

    from edgekern.graph.infer_types import with_types

    skeleton = with_types(open_model(model, function="observed_tensors"))
    float_types = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
    graph = onnx.shape_inference.infer_shapes(skeleton.proto).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    is_float = {value.name: value.type.tensor_type.elem_type in float_types for value in values}
    names = [value.name for value in skeleton.inputs]
    names += [name for node in graph.node if node.op_type != "Constant" for name in node.output]
    return [name for name in dict.fromkeys(names) if is_float.get(name, False)]


def weighted_inputs(model: ModelLike) -> list[str]:
    """Names of the activations that weights may multiply: what bias correction needs the channel means of."""
    from edgekern.graph.families import PRODUCTS

    graph = open_model(model, function="weighted_inputs").proto.graph
    operators = PRODUCTS | {"BatchNormalization"}  # it becomes a product's weights where it follows one
    return list(dict.fromkeys(node.input[0] for node in graph.node if node.op_type in operators))
