"""The onnx package's node tests through kernels alone: right, or refused for one of the reasons counted here.

``python -m tests.conformance.test_native_nodes`` prints the count of each operator.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases

from conformance.onnx_backend import EdgekernBackend
from edgekern.compiler.floats.table import FLOATS
from edgekern.errors import EdgekernError

PARTS = 4
# Why a test is refused, in the words of the first reason that is found, and how many are, in onnx 1.23.
REASONS: dict[str, int] = {}
OTHER_TYPES = r"has type \w+, which a program cannot hold|reads \w+, for which|gives \w+, for which"


def cases() -> Iterator[onnx.backend.test.case.test_case.TestCase]:
    """Those of one node that has a kernel, on tensors."""
    for case in collect_testcases(""):
        nodes = {node.op_type for node in case.model.graph.node}
        plain = all(isinstance(x, np.ndarray) for arrays in case.data_sets[0] for x in arrays)
        if plain and len(case.model.graph.node) == 1 and nodes <= FLOATS.keys():
            yield case


def outcome(case: onnx.backend.test.case.test_case.TestCase) -> str:
    """ "" where all outputs are right, "wrong: ..." or the reason of a refusal."""
    inputs, expected = case.data_sets[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = EdgekernBackend.prepare(case.model).run(inputs)
    except EdgekernError as error:
        return " ".join(str(error).split())
    for found, want in zip(results, expected, strict=True):
        if found.dtype != want.dtype or found.shape != want.shape:
            return f"wrong: {found.dtype}{found.shape} for {want.dtype}{want.shape}"
        if not np.allclose(found, want, rtol=max(case.rtol, 1e-5), atol=max(case.atol or 0, 1e-6), equal_nan=True):
            return f"wrong: {np.abs(found.astype(float) - want).max()}"
    return ""


def reason_of(text: str) -> str:
    return next((reason for reason in REASONS if re.search(reason, text)), text)


@pytest.mark.parametrize("part", range(PARTS))
def test_node_tests_run_on_kernels_or_are_refused_for_a_known_reason(part):
    logging.disable(logging.CRITICAL)  # onnx_ir about some of these models
    try:
        found = {case.name: outcome(case) for case in list(cases())[part::PARTS]}
    finally:
        logging.disable(logging.NOTSET)
    unknown = {name: text for name, text in found.items() if text and reason_of(text) == text}
    assert not unknown
    assert sum(not text for text in found.values()) > len(found) // 2


def main() -> int:
    logging.disable(logging.CRITICAL)
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
