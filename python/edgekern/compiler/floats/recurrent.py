"""LSTM, GRU and RNN: all time steps of a layer in one step, in one direction or both."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgekern import _core
from edgekern._core import DType, StepKind
from edgekern.compiler.floats.moves import pick
from edgekern.compiler.floats.operator import FLOAT, FloatOperator, used_outputs
from edgekern.compiler.layout import transposed, view
from edgekern.compiler.lowering import Lowering
from edgekern.compiler.operators.weights import STRIP, pad_strips
from edgekern.compiler.steps import KernelStep, Tensor
from edgekern.graph.dynamic import dynamic_gates
from edgekern.graph.values import (
    Weights,
    float_attribute,
    int_attribute,
    is_constant,
    known_shape,
    label,
    text_attribute,
)

FloatArray = npt.NDArray[np.float32]
_CELLS = ("LSTM", "GRU", "RNN")  # by a step's `cell`
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_FUNCTIONS = ("Sigmoid", "Tanh", "Relu")  # by a step's `activations`
_USUAL = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_BATCH_FIRST = (2, 0, 1, 3)  # of a step's (time, directions, batch, hidden), as `layout = 1` has it
_NUMBERS = {"LSTM": 3, "GRU": 2, "RNN": 1}  # of functions a direction


def reason(node: ir.Node) -> str | None:
    given = [*node.inputs, *[None] * (8 - len(node.inputs))]
    floats = [given[at] for at in (0, 1, 2, 3, 5, 6) if given[at] is not None]
    if any(value is not None and value.dtype not in FLOAT for value in floats):
        return f"{node.op_type} on other types than float32 has no kernel"
    if given[7] is not None:
        return "peepholes have no kernel"
    if any(not is_constant(value) for value in given[1:4]):
        return "its weights are not constant"
    if int_attribute(node, "input_forget", 0):
        return "input_forget has no kernel"
    unknown = set(_names(node)) - set(_FUNCTIONS)
    if unknown:
        return f"the activation {sorted(unknown)[0]} has no kernel"
    if any(name in node.attributes for name in ("activation_alpha", "activation_beta")):
        return "parameters of its activations have no kernel"
    shapes = [known_shape(value) for value in (given[0], *used_outputs(node))]
    return f"{node.op_type} of nothing has no kernel" if any(0 in shape for shape in shapes) else None


def _names(node: ir.Node) -> list[str]:
    """The functions of each direction, one behind the other."""
    given = node.attributes.get("activations")
    if given is not None:
        return [str(name) for name in given.as_strings()]
    return [*_USUAL[node.op_type]] * (2 if text_attribute(node, "direction", "forward") == "bidirectional" else 1)


def lower(lowering: Lowering, node: ir.Node, value: ir.Value) -> Tensor:
    """One step for all results of a node, which lie one behind the other; each is then cut out."""
    made = lowering.shared(node, lambda: _step(lowering, node))
    last = made.shape[0] - len(_states(node))
    begin, count = ((0, last), (last, 1), (last + 1, 1))[list(node.outputs).index(value)]
    tables = [begin + np.arange(count), *map(np.arange, made.shape[1:])]
    y = pick(lowering, made, value, tables, label(node), node.op_type)
    if int_attribute(node, "layout", 0):
        y = transposed(lowering, y, _BATCH_FIRST, (), label(node))
    if y.view_of is not None:
        return view(y, shape=known_shape(value))
    y.name, y.shape = str(value.name), known_shape(value)
    return y


def _states(node: ir.Node) -> tuple[str, ...]:
    """What follows the results of all time steps: the last state, and that of an LSTM's cells."""
    return ("h", "c") if node.op_type == "LSTM" else ("h",)


def _step(lowering: Lowering, node: ir.Node) -> Tensor:
    x, w, r, bias, lengths, h0, c0 = [*node.inputs, *[None] * (7 - len(node.inputs))][:7]
    assert x is not None
    assert w is not None
    assert r is not None
    batch_first = bool(int_attribute(node, "layout", 0))
    steps, batch, inputs = known_shape(x)
    if batch_first:
        steps, batch = batch, steps
    directions, _, hidden = known_shape(r)
    gates = _GATES[node.op_type]
    biases = np.zeros((directions, 2, gates, hidden), np.float32)
    if bias is not None:
        biases = lowering.constant(bias).astype(np.float32).reshape(biases.shape)
    direction, names = text_attribute(node, "direction", "forward"), _names(node)
    each = _NUMBERS[node.op_type]
    numbers = [
        [_FUNCTIONS.index(name) for name in names[at * each : (at + 1) * each]] + [1] * (3 - each)
        for at in range(directions)
    ]
    arguments: dict[str, Any] = {
        "cell": _CELLS.index(node.op_type),
        "steps": steps,
        "batch": batch,
        "inputs": inputs,
        "hidden": hidden,
        "directions": directions,
        "reverse": int(direction == "reverse"),
        "linear_before_reset": int_attribute(node, "linear_before_reset", 0),
        "has_lengths": int(lengths is not None),
        "has_h0": int(h0 is not None),
        "has_c0": int(c0 is not None),
        "activations": [*numbers[0], *(numbers[1] if directions == 2 else (0, 0, 0))],
        "clip": float_attribute(node, "clip", 0.0),
    }
    given = [lowering.plain(value) for value in (x, h0, c0) if value is not None]
    if batch_first:
        given = [transposed(lowering, t, (1, 0, 2), (), label(node)) for t in given]
    if lengths is not None:
        given.insert(1, lowering.plain(lengths))
    kind, codes = StepKind.RECURRENT, dynamic_gates(node)
    if codes is None:
        blobs = [_packed(lowering, weights, hidden) for weights in (w, r)]
    else:
        kind, shape = StepKind.RECURRENT_DYNAMIC, (directions, gates, hidden)
        at_once = 2 if node.op_type == "GRU" and not arguments["linear_before_reset"] else gates
        blobs = [_packed_codes(codes[0], shape, gates), _packed_codes(codes[1], shape, at_once)]
    blobs.append(pad_strips(biases, biases.size // hidden))
    if codes is not None:
        scales = np.stack([weights.scale for weights in codes], axis=1)
        blobs.append(pad_strips(scales, scales.size // hidden))
    count = steps + len(_states(node))
    y = Tensor(label(node), DType.F32, (count, directions, batch, hidden))
    return lowering.emit(KernelStep(kind, label(node), node.op_type, given, y, blobs, arguments))


def _packed(lowering: Lowering, value: ir.Value, hidden: int) -> bytes:
    """Weights (directions, gates * hidden, k): every gate of every direction a group of columns."""
    weights = lowering.constant(value).astype(np.float32)
    return _core.pack_f32_blob(np.ascontiguousarray(weights.reshape(-1, hidden, weights.shape[-1])))


def _packed_codes(weights: Weights, shape: tuple[int, int, int], at_once: int) -> bytes:
    """The same of int8 weights, the gates of a direction ``at_once`` as one matrix and the rest as another."""
    directions, gates, hidden = shape
    k = weights.values.shape[-1]
    padded = np.zeros((directions, gates, -(-hidden // STRIP) * STRIP, k), np.int8)
    padded[:, :, :hidden] = weights.values.reshape(*shape, k)
    parts = [
        np.ascontiguousarray(part.reshape(1, -1, 1, k))
        for direction in padded
        for part in (direction[:at_once], direction[at_once:])
        if part.size
    ]
    return b"".join(map(_core.pack_weights_blob, parts))


OPERATOR = FloatOperator(frozenset(_CELLS), reason, lower)
