"""Float models of which one layer is hard to quantize, though it computes what it did."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

_TIMES = 300


def spoilt(model: onnx.ModelProto, at: int) -> onnx.ModelProto:
    """A copy in which the weights of node ``at``, a Conv or Gemm, have a neighbor 300 times as large for every channel.

    The large weight multiplies zeros that are added to the input: a channel more, or columns that only a wider filter
    of a depthwise Conv reaches. So results are what they were, and the steps of a channel are 300 times as wide.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, node = made.graph, made.graph.node[at]
    place = next(t for t in graph.initializer if t.name == node.input[1])
    weights = numpy_helper.to_array(place)
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    by_rows = node.op_type == "Gemm" and not attributes.get("transB", 0)
    largest = _TIMES * np.abs(weights).max()
    if attributes.get("group", 1) > 1:
        width = _width(model, node.input[0])
        wide = np.concatenate([weights, np.zeros((*weights.shape[:3], width), np.float32)], axis=3)
        wide[..., -1] = largest
        set_attribute(node, "kernel_shape", list(wide.shape[2:]))
        pads = list(attributes.get("pads", [0, 0, 0, 0]))
        pads[3] += width
        set_attribute(node, "pads", pads)
        place.CopyFrom(numpy_helper.from_array(wide, place.name))
        return made
    axis = 0 if by_rows else 1
    one = np.full([1 if a == axis else size for a, size in enumerate(weights.shape)], largest, np.float32)
    place.CopyFrom(numpy_helper.from_array(np.concatenate([weights, one], axis=axis), place.name))
    pads = np.zeros(2 * weights.ndim, np.int64)
    pads[weights.ndim + 1] = 1
    graph.initializer.append(numpy_helper.from_array(pads, "spoilt_pads"))
    pad = helper.make_node("Pad", [node.input[0], "spoilt_pads"], ["spoilt_input"], name="spoilt_pad")
    node.input[0] = "spoilt_input"
    graph.node.insert(at, pad)
    return made


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


def products(model: onnx.ModelProto) -> list[int]:
    """Places of its Convs and Gemms by constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        at
        for at, node in enumerate(model.graph.node)
        if node.op_type in ("Conv", "Gemm") and node.input[1] in constants
    ]


def _width(model: onnx.ModelProto, tensor: str) -> int:
    graph = onnx.shape_inference.infer_shapes(model).graph
    value = next(v for v in (*graph.value_info, *graph.input) if v.name == tensor)
    return int(value.type.tensor_type.shape.dim[3].dim_value)
