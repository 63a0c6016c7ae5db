"""MATMUL: two 8-bit tensors, batch by batch; exact sums, one result on all ISAs and threads."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError

from float_models import STATIC, build, f32, ranges_of, sqnr_db
from graphs import onnxruntime_session
from one_step import assert_equals_reference, one_step
from reference.program import run_program

# SHA-256 of the bytes that every machine gives for fixed ones; tests/reference computed it.
GOLDEN = "3366adbaf7c39605"
Y = {"U8": (np.uint8, 117), "S8": (np.int8, -9), "F32": (np.float32, 0)}


def codes(seed, shape, dtype=np.uint8):
    rng = np.random.Generator(np.random.PCG64(seed))
    return rng.integers(0, 256, shape).astype(np.uint8).view(dtype)


def matmul(a, b, *, zero=131, result="U8", multiplier=0.0007, **changes):
    """(batch, rows, k) times (batch, k, columns)."""
    (batch, rows, k), columns = a.shape, b.shape[2]
    dtype, y_zero = Y[result]
    low = -128 if dtype == np.int8 else 0
    limits = (-3.0, 2.5) if dtype == np.float32 else (low - y_zero, low + 255.0 - y_zero)
    sizes = {"batch": batch, "rows": rows, "k": k, "columns": columns}
    sizes |= {"multiplier": float(np.float32(multiplier)), "lo": float(limits[0]), "hi": float(limits[1])}
    quants = {0: (0.02, zero), 1: (0.03, 0), 2: (1.0 if dtype == np.float32 else 0.04, y_zero)}
    output = ((batch, rows, columns), dtype)
    return one_step(StepKind.MATMUL, [a, b], output, quants=quants, **(sizes | changes))


@given(
    batch=st.integers(1, 5),
    rows=st.integers(1, 40),
    k=st.integers(1, 70),
    columns=st.integers(1, 140),
    left=st.sampled_from([np.uint8, np.int8]),
    result=st.sampled_from(sorted(Y)),
    seed=st.integers(0, 99),
)
def test_any_product_equals_the_reference(batch, rows, k, columns, left, result, seed):
    a, b = codes(seed, (batch, rows, k), left), codes(seed + 1, (batch, k, columns), np.int8)
    program = matmul(a, b, zero=131 if left == np.uint8 else -7, result=result)
    assert_equals_reference(program, [a, b])


@pytest.mark.parametrize("shape", [(12, 33, 64, 130), (1, 300, 200, 300), (3, 1, 515, 260)])
def test_products_are_shared_between_threads(shape):
    batch, rows, k, columns = shape
    a, b = codes(1, (batch, rows, k)), codes(2, (batch, k, columns), np.int8)
    assert_equals_reference(matmul(a, b), [a, b])


def golden_program():
    return matmul(codes(5, (3, 13, 45)), codes(6, (3, 45, 37), np.int8))


def test_golden_bytes(isa):
    feeds = {"x0": codes(5, (3, 13, 45)), "x1": codes(6, (3, 45, 37), np.int8)}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert hashlib.sha256(result.tobytes()).hexdigest()[:16] == GOLDEN


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rows": 4}, "do not match its sizes"),
        ({"columns": 2**31 - 1}, "do not match its sizes"),
        ({"multiplier": 0.0}, "damaged multiplier"),
        ({"lo": -500.0}, "clamp outside the 8-bit range"),
    ],
)
def test_what_does_not_fit_is_refused(changes, why):
    with pytest.raises(ArtifactError, match=why):
        matmul(codes(1, (2, 3, 4)), codes(2, (2, 4, 5), np.int8), **changes)


def test_what_the_kernel_does_not_multiply_is_refused():
    a, b = codes(1, (1, 2, 3)), codes(2, (1, 3, 4))
    with pytest.raises(ArtifactError, match="the second int8 with zero point 0"):
        matmul(a, b)
    deep = 2**30 // (255 * 128) + 1
    with pytest.raises(ArtifactError, match=r"sums can pass 2\^31"):
        matmul(codes(1, (1, 1, deep)), codes(2, (1, deep, 1), np.int8))


def attention():
    """Queries times keys, softmax, times values, between products."""
    rng = np.random.default_rng(3)
    weights = {name: f32(rng.normal(0, 0.25, (32, 32))) for name in ("wq", "wk", "wv", "wo")}
    weights |= {"heads": np.array([1, 9, 4, 8]), "rows": np.array([1, 9, 32])}
    nodes = [helper.make_node("MatMul", ["x", f"w{name}"], [name]) for name in "qkv"]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes.append(helper.make_node("Reshape", [name, "heads"], [f"{name}4"]))
        nodes.append(helper.make_node("Transpose", [f"{name}4"], [f"{name}h"], perm=perm))
    nodes += [
        helper.make_node("MatMul", ["qh", "kh"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["p"], axis=-1),
        helper.make_node("MatMul", ["p", "vh"], ["mixed"]),
        helper.make_node("Transpose", ["mixed"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["t", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "wo"], ["y"]),
    ]
    return build(nodes, weights, [1, 9, 32])


def test_attention_multiplies_activations_as_bytes():
    model, x = attention(), f32(np.random.default_rng(4).normal(size=(1, 9, 32)))
    qdq = ek.quantize(model, ranges_of(model, x), STATIC)
    program = ek.compile(qdq, allow_host=False)
    kinds = [step.kind for step in program.steps]
    assert kinds.count("MATMUL") == 2
    assert not [kind for kind in kinds if "F32" in kind or "DEQUANTIZE" in kind]
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    assert np.array_equal(found, run_program(program.index, program.container.blobs, [x])[0])
    [of_file] = onnxruntime_session(qdq, optimized=False).run(None, {"x": x})
    assert sqnr_db(of_file, found) > 40
    [real] = onnxruntime_session(model).run(None, {"x": x})
    assert sqnr_db(real, found) > 25


def test_one_matrix_that_a_batch_shares_is_multiplied_once():
    rng = np.random.default_rng(5)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("ReduceMean", ["a", "first"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["a", "m"], ["b"]),
        helper.make_node("MatMul", ["b", "w"], ["y"]),
    ]
    constants = {"w": f32(rng.normal(0, 0.3, (16, 16))), "first": np.array([0])}
    model = build(nodes, constants, [3, 16, 16], opset=18)
    x = f32(rng.normal(size=(3, 16, 16)))
    program = ek.compile(ek.quantize(model, ranges_of(model, x), STATIC), allow_host=False)
    [step] = [step for step in program.index.steps if step.kind == StepKind.MATMUL]
    assert (step.arguments["batch"], step.arguments["rows"]) == (1, 48)
    [found] = ek.InferenceSession(program).run(None, {"x": x})
    [real] = onnxruntime_session(model).run(None, {"x": x})
    assert sqnr_db(real, found) > 20
