"""The inputs of whatever a caller has: a model, an open session, or shapes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekern.calibration.feeds import numpy_type
from edgekern.calibration.sources.base import Input
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.file_kinds import kind_of_file

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes


def inputs_of(given: Any, shapes: Shapes | None = None) -> list[Input]:
    """Names, shapes and dtypes of inputs, in the model's order.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        It is nothing that has inputs, or a compiled file, which has to be opened first.
    """
    if isinstance(given, Mapping):
        found = [Input(str(name), tuple(shape)) for name, shape in given.items()]
    elif callable(getattr(given, "get_inputs", None)):  # a session, ours or onnxruntime's
        found = [_of_node(node) for node in given.get_inputs()]
    elif isinstance(getattr(given, "inputs", None), Sequence):  # a program or a calibrator
        found = [_of_node(node) for node in given.inputs]
    elif isinstance(given, (str, bytes, os.PathLike)) or hasattr(given, "graph"):
        return _of_model(given, shapes)
    else:
        raise ArgumentTypeError(
            "samples: model_or_inputs must be a model, a session, a program, a Calibrator, or a mapping of input names "
            f"to shapes, got {type(given).__name__}"
        )
    if shapes is not None:
        raise ArgumentValueError("samples: shapes are of an ONNX model, and this is none; give the shapes themselves")
    return found


def _of_node(node: Any) -> Input:
    dtype = getattr(node, "dtype", None)
    kind = numpy_type(str(getattr(node, "type", ""))) if dtype is None else np.dtype(dtype)
    scale, zero_point = getattr(node, "scale", None), getattr(node, "zero_point", None)
    return Input(str(node.name), tuple(node.shape), kind, 1.0 if scale is None else scale, zero_point or 0)


def _of_model(model: Any, shapes: Shapes | None) -> list[Input]:
    if isinstance(model, (str, os.PathLike)) and kind_of_file(model) == "ekm":
        raise ArgumentValueError(
            f"samples: {os.fspath(model)} is a compiled program; pass edgekern.InferenceSession of it"
        )
    import onnx

    from edgekern.graph.dimensions import fix_dimensions
    from edgekern.graph.model import open_model

    opened = fix_dimensions(open_model(model, function="samples"), shapes, function="samples")
    return [
        Input(
            value.name,
            tuple(side.dim_value if side.HasField("dim_value") else side.dim_param or None for side in kind.shape.dim),
            onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type),
        )
        for value in opened.inputs
        for kind in [value.type.tensor_type]
    ]
