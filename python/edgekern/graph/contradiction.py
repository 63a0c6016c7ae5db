"""Why a pass has failed on a model that ONNX's checker and inference have passed."""

from __future__ import annotations

import math

import numpy as np

from edgekern._onnxruntime import run_to_end
from edgekern.errors import ArtifactError, EdgekernError
from edgekern.graph.dimensions import MOST_ELEMENTS
from edgekern.graph.evaluate import new_session
from edgekern.graph.model import what_breaks_onnx
from edgekern.graph.skeleton import NUMPY_TYPES, Skeleton

_PATIENCE_S = 20.0


def broken_rule(model: Skeleton) -> str | None:
    """The rule of ONNX that a model breaks, of types and shapes too; None where onnxruntime does not mind."""
    broken = what_breaks_onnx(model)
    if broken is None:
        return None
    try:
        new_session(model.proto.SerializeToString())
    except Exception:  # onnxruntime raises a class per status, all private
        return f"the model contradicts itself: {broken}; export it again"
    return None


def contradiction(model: Skeleton, error: Exception) -> str | None:
    """What onnxruntime says of a model on which a pass has failed with ``error``; it is run on zeros.

    Inference looks at neither the groups of a Conv nor the elements of a Reshape, and what does not fit is found out
    wherever that happens to be. None where the error is typed, or onnxruntime runs the model: then it is the pass; and
    where inputs are larger than what anybody makes for this.
    """
    if isinstance(error, (EdgekernError, MemoryError, OSError)) and not isinstance(error, ArtifactError):
        return None
    feeds = {}
    for value in model.proto.graph.input:
        kind = value.type.tensor_type
        sides = [side.dim_value or 1 for side in kind.shape.dim]
        if math.prod(sides) > MOST_ELEMENTS:
            return None
        feeds[value.name] = np.zeros(sides, NUMPY_TYPES.get(kind.elem_type, np.float32))
    try:
        session = new_session(model.proto.SerializeToString())
        run_to_end(session, [value.name for value in session.get_outputs()], feeds, timeout_s=_PATIENCE_S)
    except TimeoutError:
        return None
    except Exception as refusal:  # onnxruntime raises a class per status, all private
        reason = " ".join(str(refusal).split())
        return f"the model contradicts itself, and onnxruntime cannot run it either: {reason}; export it again"
    return None
