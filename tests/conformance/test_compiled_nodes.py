"""The onnx package's own node tests through compile: onnxruntime's answer, or a refusal that is ours.

Each operator stands alone and in float, so nearly all of them are host steps: what is held here is shapes, types,
constants, opsets and bodies. One model in twelve is taken; all of them, in about a minute:
``EDGEKERN_NODE_TESTS=1 python -m pytest tests/conformance/test_compiled_nodes.py``
"""

import logging
import os

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.node import collect_testcases

import edgekern as ek
from edgekern.errors import EdgekernError

from graphs import onnxruntime_session

EVERY = int(os.environ.get("EDGEKERN_NODE_TESTS", "12"))
PARTS = 4
# onnxruntime computes them, and we say why we do not: a fixed size of 0, or no operator of ONNX's own domain.
REFUSED = ("which a program cannot hold", "depends on the data", "a program takes tensors", "a program holds tensors")
REFUSED += ("has a free dimension", "which is outside 7", "not valid ONNX", "has a batch")


def cases(part: int) -> list:
    chosen = collect_testcases("")[::EVERY][part::PARTS]
    tensors = [case for case in chosen if all(v.type.HasField("tensor_type") for v in case.model.graph.input)]
    return [case for case in tensors if all(isinstance(x, np.ndarray) for x in case.data_sets[0][0])]


def expected_of(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list | None:
    try:
        return onnxruntime_session(model, optimized=False).run(None, feeds)
    except Exception:  # onnxruntime raises a class per status, all private
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(PARTS))
def test_node_tests_compile_to_the_right_answer_or_are_refused(part):
    logging.disable(logging.CRITICAL)  # onnx_ir about bodies of some of these models
    wrong, right = [], 0
    try:
        for case in cases(part):
            inputs = [value.name for value in case.model.graph.input]
            feeds = dict(zip(inputs, case.data_sets[0][0], strict=False))
            expected = expected_of(case.model, feeds)
            try:
                program = ek.compile(case.model)
            except EdgekernError as error:
                if expected is not None and not any(reason in str(error) for reason in REFUSED):
                    wrong.append((case.name, str(error)))
                continue
            if expected is None or any(0 in x.shape for x in feeds.values()):
                continue
            results = ek.InferenceSession(program).run(None, feeds)
            for ours, theirs in zip(results, expected, strict=True):
                same = ours.shape == theirs.shape and ours.dtype == theirs.dtype
                if not same or not np.allclose(ours, theirs, rtol=1e-3, atol=1e-4, equal_nan=True):
                    wrong.append((case.name, "another answer"))
            right += 1
    finally:
        logging.disable(logging.NOTSET)
    assert wrong == []
    assert right > 0
