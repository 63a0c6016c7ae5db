"""The onnx package's node tests through kernels alone: right, or refused for one of the reasons counted here.

``PYTHONPATH=tests:. python tests/conformance/test_native_nodes.py`` prints the count of each operator, and with
``--table`` the rows of docs/operators.md.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from conformance.onnx_backend import EdgekernBackend
from edgekern.compiler.floats.table import FLOATS
from edgekern.compiler.operators.table import OPERATORS
from edgekern.compiler.passes.expand_functions import EXPANDED
from edgekern.errors import EdgekernError
from edgekern.graph.families import QDQ, SHAPED_BY_VALUES

from graphs import onnxruntime_session

pytestmark = pytest.mark.filterwarnings("ignore")  # of casts in the cases themselves

PARTS = 4
# QuantizeLinear and DequantizeLinear of 16 bits run on kernels as a pair, and not alone.
ON_FLOATS = FLOATS.keys() - QDQ
# Why a test is refused, by the first pattern that fits: as many as onnx 1.23 has of each.
REASONS = {
    r"(reads|gives) \w+, for which \w+ has no kernel": 85,
    r"its statistics have no kernel": 2,  # of BatchNormalization, as training reads them
    # Sizes of 0.
    r"has a free dimension|must have shape|is no view of|Mismatch between the sum of 'split'|got \(0,\)": 23,
    r"contradicts itself.* requested shape:\{3,4,0\}": 1,
    r"has opset 1, which is outside 7": 3,
    r"as onnxruntime has it": 2,  # align_corners where an image shrinks by a factor that does not divide it
    r"the indices of a pooling have no kernel": 2,
    r"peepholes have no kernel": 1,
    r"GridSample over 3 dimensions has no kernel": 4,
}


def cases() -> Iterator[onnx.backend.test.case.test_case.TestCase]:
    """Those of one node that has a kernel, or is written as nodes that have, on tensors."""
    for case in collect_testcases(""):
        nodes = {node.op_type for node in case.model.graph.node}
        plain = all(isinstance(x, np.ndarray) or _is_float(x) for given in case.data_sets[0] for x in given)
        if plain and len(case.model.graph.node) == 1 and nodes <= ON_FLOATS | EXPANDED:
            yield case


def _is_float(x: object) -> bool:
    """Whether it is one of the encoded tensors of a Cast that is not of the types of 8 bits and fewer."""
    kinds = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE
    return isinstance(x, onnx.TensorProto) and x.data_type in kinds


def arrays(given: Sequence[np.ndarray | onnx.TensorProto]) -> list[np.ndarray]:
    return [numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x for x in given]


# Inputs that a program has as constants, beside those that its shapes follow from.
_WEIGHTS = {
    **dict.fromkeys(("Conv", "ConvTranspose", "CausalConvWithState"), (1, 2)),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), (1, 2, 3)),
    "BatchNormalization": (1, 2, 3, 4),
    "CumSum": (1,),
    "OneHot": (2,),
    "Trilu": (1,),
    "Pad": (2,),
}


def frozen(case: onnx.backend.test.case.test_case.TestCase) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    """The model with weights, axes and sizes as initializers, and the inputs that are left."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph, node = model.graph, model.graph.node[0]
    places = {*SHAPED_BY_VALUES.get(node.op_type, ()), *_WEIGHTS.get(node.op_type, ())}
    fixed = {name for at, name in enumerate(node.input) if at in places}
    left = []
    for value, array in zip(case.model.graph.input, arrays(case.data_sets[0][0]), strict=False):
        if value.name in fixed:
            graph.input.remove(value)
            graph.initializer.append(numpy_helper.from_array(array, value.name))
            continue
        for side, size in zip(graph.input[len(left)].type.tensor_type.shape.dim, array.shape, strict=False):
            side.dim_value = size
        left.append(array)
    return model, left


def outcome(case: onnx.backend.test.case.test_case.TestCase) -> str:
    """ "" where all outputs are right, "wrong: ..." or the reason of a refusal."""
    expected = arrays(case.data_sets[0][1])
    model, inputs = frozen(case)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = EdgekernBackend.prepare(model).run(inputs)
    except EdgekernError as error:
        text = " ".join(str(error).split())
        return text.partition("operators.md ")[2].partition(" Nothing of the model")[0] or text
    for found, want in zip(results, expected, strict=True):
        if found.dtype != want.dtype or found.shape != want.shape:
            return f"wrong: {found.dtype}{found.shape} for {want.dtype}{want.shape}"
        rtol, atol = max(case.rtol, 1e-5), max(case.atol or 0, 1e-6)
        if found.dtype.kind == "V":  # bfloat16, of 8 bits: the cases round to it between nodes, too
            found, want, rtol = found.astype(np.float32), want.astype(np.float32), 2**-7
            atol = 2**-7 * float(np.abs(want).max(initial=0))
        if not np.allclose(found, want, rtol=rtol, atol=atol, equal_nan=True):
            theirs = onnxruntime_session(model, optimized=False).run(None, _feeds(model, inputs))
            same = all(np.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(results, theirs, strict=True))
            return "as onnxruntime has it" if same else f"wrong: {np.abs(found.astype(float) - want).max()}"
    return ""


def _feeds(model: onnx.ModelProto, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {value.name: array for value, array in zip(model.graph.input, inputs, strict=True)}


def reason_of(text: str) -> str:
    return next((reason for reason in REASONS if re.search(reason, text)), text)


@pytest.mark.parametrize("part", range(PARTS))
def test_node_tests_run_on_kernels_or_are_refused_for_a_known_reason(part):
    logging.disable(logging.CRITICAL)  # onnx_ir about some of these models
    try:
        found = {case.name: outcome(case) for case in list(cases())[part::PARTS]}
    finally:
        logging.disable(logging.NOTSET)
    unknown = {name: text for name, text in found.items() if text and reason_of(text) not in REASONS}
    assert not unknown
    refused = Counter(reason_of(text) for text in found.values() if text)
    assert all(count <= REASONS[reason] for reason, count in refused.items())
    assert sum(not text for text in found.values()) > len(found) * 3 // 4


def test_the_documentation_lists_every_operator_that_has_a_kernel(repository):
    text = (repository / "docs" / "operators.md").read_text()
    section = text.partition("## In float32")[2].partition("\n## ")[0]
    assert set(re.findall(r"[A-Z]\w+(?= \d+/\d+| -)", section)) == ON_FLOATS | EXPANDED


def test_the_documentation_says_why_every_other_operator_stays_on_the_host(repository):
    text = (repository / "docs" / "operators.md").read_text()
    section = text.partition("### What stays on the host")[2].partition("\n## ")[0]
    rows = [line.rpartition(" | ")[2].strip(" |") for line in section.splitlines() if "|" in line][2:]
    known = {schema.name for schema in onnx.defs.get_all_schemas() if schema.domain == "" and not schema.deprecated}
    nothing = {"Constant", "Dropout", "Shape", "Size"}  # nothing is left of them
    assert sorted(", ".join(rows).split(", ")) == sorted(known - FLOATS.keys() - EXPANDED - OPERATORS.keys() - nothing)


def table() -> None:
    """The rows of docs/operators.md: how many node tests of each operator pass, of how many."""
    passed, all_of = Counter(), Counter()
    for case in cases():
        op = case.model.graph.node[0].op_type
        all_of[op] += 1
        passed[op] += not outcome(case)
    families: dict[str, list[str]] = {}
    for op in ON_FLOATS:
        room = FLOATS[op].reason.__module__.rpartition(".")[2]
        families.setdefault(room, []).append(op)
    families["their definitions"] = list(EXPANDED - FLOATS.keys())
    for room, ops in families.items():
        rows = [f"{op} {passed[op]}/{all_of[op]}" if all_of[op] else f"{op} -" for op in sorted(ops)]
        print(f"| {room} | {', '.join(rows)} |")


def main() -> int:
    logging.disable(logging.CRITICAL)
    if "--table" in sys.argv:
        table()
        return 0
    passed, all_of, refused, wrong = Counter(), Counter(), Counter(), []
    for case in cases():
        op, text = case.model.graph.node[0].op_type, outcome(case)
        all_of[op] += 1
        passed[op] += not text
        if text.startswith("wrong"):
            wrong.append((case.name, text))
        elif text:
            refused[reason_of(text)] += 1
    for op, count in sorted(all_of.items()):
        print(f"{op:24} {passed[op]:4} of {count}")
    print(f"{sum(passed.values())} of {sum(all_of.values())} node tests of {len(all_of)} operators pass")
    for reason, count in refused.most_common():
        print(f"{count:4} refused: {reason}")
    for name, text in wrong:
        print(f"{name}: {text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
