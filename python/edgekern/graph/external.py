"""Tensors whose data lies in another file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from edgekern.errors import ArgumentValueError

if TYPE_CHECKING:
    import onnx


def refuse_external_data(proto: onnx.ModelProto | onnx.TensorProto, function: str, *, from_path: bool) -> None:
    """A model in memory has no folder, so nothing may be read for it: not from the current folder, not from elsewhere.

    Parameters
    ----------
    from_path : whether onnx has read it from a path, with all external data that onnx knows to read

    Raises
    ------
    ArgumentValueError
        When a tensor has external data: in the graph or a subgraph, in a function, an attribute, a sparse tensor.
    """
    tensor = next(external_tensors(proto), None)
    if tensor is None:
        return
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    rule = "a model given as bytes or ModelProto reads no files; give its path, or what onnx.load(path) returns"
    if from_path:
        rule = "onnx does not load it from there; save the model with this tensor inside"
    raise ArgumentValueError(
        f"{function}: model has the data of tensor {tensor.name!r} in another file, {location!r}: {rule}"
    )


def external_tensors(proto: onnx.ModelProto | onnx.TensorProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, wherever it is, whose data lies elsewhere."""
    import onnx

    waiting: list[Any] = [proto]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL:
                yield message
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else value
