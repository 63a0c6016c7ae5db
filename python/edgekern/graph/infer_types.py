"""What ONNX's own inference cannot tell of a model, and what a model tells wrong.

Behind an operator of com.microsoft onnxruntime alone knows the types.
"""

from __future__ import annotations

from typing import Any

import onnx

from edgekern._onnxruntime import open_session
from edgekern.graph.dimensions import forget_inferred
from edgekern.graph.inference import infer_values
from edgekern.graph.skeleton import Skeleton


def with_types(model: Skeleton) -> Skeleton:
    """The model, and where ONNX infers no type of a tensor that a node makes, with the type that onnxruntime gives it.

    A model that onnxruntime does not open is returned as it is: whoever runs it says why.
    """
    graph = onnx.shape_inference.infer_shapes(model.proto).graph
    known = {value.name for value in (*graph.input, *graph.value_info, *graph.output) if _has_type(value)}
    unknown = {name for node in graph.node for name in node.output if name} - known
    if not unknown:
        return model
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model.proto)
    del tapped.graph.output[:]
    tapped.graph.output.extend(value for value in graph.output if value.name not in unknown)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(unknown))
    try:
        session = open_session(tapped.SerializeToString(), num_threads=1, as_written=True)
    except Exception:  # onnxruntime raises a class per status, all private
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model.proto)
    del typed.graph.value_info[:]
    typed.graph.value_info.extend(value for value in model.proto.graph.value_info if value.name not in unknown)
    outputs = {value.name: value for value in typed.graph.output}
    for value in session.get_outputs():
        if value.name in unknown and value.type.startswith("tensor("):
            room = outputs[value.name] if value.name in outputs else typed.graph.value_info.add()
            room.CopyFrom(_described(value))
    return model.with_graph(typed)


def without_false_shapes(model: Skeleton) -> Skeleton:
    """The model, and none of the shapes that it declares of an output and that inference contradicts.

    onnxruntime warns and runs such a model; what is written down of it afterwards would contradict itself.
    """
    bare = onnx.ModelProto()
    bare.CopyFrom(model.proto)
    forget_inferred(bare)
    real = {value.name: value for value in infer_values(bare).graph.output}
    wrong = {value.name for value in model.proto.graph.output if _contradict(value, real[value.name])}
    if not wrong:
        return model
    bare.CopyFrom(model.proto)
    for value in bare.graph.output:
        if value.name in wrong:
            value.type.tensor_type.ClearField("shape")
    return model.with_graph(bare)


def _contradict(declared: onnx.ValueInfoProto, real: onnx.ValueInfoProto) -> bool:
    kinds = declared.type.tensor_type, real.type.tensor_type
    if not all(kind.HasField("shape") for kind in kinds):
        return False
    ranks = {len(kind.shape.dim) for kind in kinds}
    return len(ranks) > 1 or any(
        one.HasField("dim_value") and other.HasField("dim_value") and one.dim_value != other.dim_value
        for one, other in zip(*(kind.shape.dim for kind in kinds), strict=True)
    )


def _has_type(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind is not None and (kind != "tensor_type" or value.type.tensor_type.elem_type != 0)


def _described(value: Any) -> onnx.ValueInfoProto:
    """An output of a session for ONNX; an unknown number of axes looks like none."""
    dtype = onnx.TensorProto.DataType.Value(value.type[len("tensor(") : -1].upper())
    sides = [side if isinstance(side, int) else None for side in value.shape]
    return onnx.helper.make_tensor_value_info(value.name, dtype, sides or None)
