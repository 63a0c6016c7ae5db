"""The onnx package's own node tests for the operators of a transformer, through edgekern on every ISA."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from conformance import onnx_nodes

onnx = pytest.importorskip("onnx", minversion="1.23")
ml_dtypes = pytest.importorskip("ml_dtypes")

OPERATORS = {
    "Attention": onnx_nodes.attention,
    "RotaryEmbedding": onnx_nodes.rotary_embedding,
    "RMSNormalization": onnx_nodes.rms_normalization,
    "TensorScatter": onnx_nodes.tensor_scatter,
}
# How many tests onnx 1.23 has.
AT_LEAST = {"Attention": 93, "RotaryEmbedding": 8, "RMSNormalization": 19, "TensorScatter": 3}
SCORES = "qk_matmul_output: one pass over the keys never holds the scores"


@pytest.fixture(scope="module")
def node_tests() -> dict[str, list[Any]]:
    from onnx.backend.test.loader import load_model_tests

    found: dict[str, list[Any]] = {operator: [] for operator in OPERATORS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package's own arithmetic
        for case in load_model_tests(kind="node"):
            nodes = [] if case.model is None else case.model.graph.node
            # The expanded form of an operator is a graph of others.
            if len(nodes) == 1 and nodes[0].op_type in found:
                found[nodes[0].op_type].append(case)
    return found


def _inputs(node: Any, arrays: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any] | None]:
    given = iter(arrays)
    return [next(given) if name else None for name in node.input]


@pytest.mark.parametrize("operator", OPERATORS)
def test_onnx_node_tests_pass(operator, node_tests, isa, record_property):
    passed, without_scores, failed = 0, [], []
    for case in node_tests[operator]:
        node = case.model.graph.node[0]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        for inputs, outputs in case.data_sets:
            got = OPERATORS[operator](_inputs(node, inputs), attributes, isa)
            wanted = dict(zip([name for name in node.output if name], outputs, strict=True))
            if len(node.output) == 4 and node.output[3]:
                without_scores.append(case.name)
                del wanted[node.output[3]]
            try:
                for name, made in zip(node.output, got, strict=False):
                    if not name:
                        continue
                    assert made.shape == wanted[name].shape
                    # The package rounds to a 16-bit type at each step, edgekern once: two units apart at most.
                    units = 2 * float(ml_dtypes.finfo(wanted[name].dtype).eps)
                    np.testing.assert_allclose(
                        made.astype(wanted[name].dtype).astype(np.float32),
                        wanted[name].astype(np.float32),
                        rtol=max(case.rtol, units),
                        atol=case.atol,
                    )
            except AssertionError as error:
                failed.append(f"{case.name}: {error}")
        passed += 1
    record_property("node tests", passed)
    record_property(f"passed but for {SCORES}", len(without_scores))
    assert not failed, "\n".join(failed)
    assert passed >= AT_LEAST[operator]
