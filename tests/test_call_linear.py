"""The public linear is a builtin before a Python function: the two must be told apart by time only."""

import inspect
import pickle
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError

from strategies import fill_integers

W = ek.pack_weights(fill_integers((12, 7), np.int8, "random", 1), scale=0.01)
X = np.random.default_rng(2).normal(size=(5, 12)).astype(np.float32)
Q = fill_integers((5, 12), np.uint8, "random", 3)
BIAS = np.random.default_rng(4).normal(size=7).astype(np.float32)
STATIC: dict[str, Any] = {"x_scale": 0.02, "y_scale": 0.05}
CLAMPS = {None: (-np.inf, np.inf), "relu": (0.0, np.inf), "relu6": (0.0, 6.0)}


@given(
    m=st.integers(0, 20),
    n=st.integers(1, 70),
    k=st.integers(0, 70),
    kind=st.sampled_from(["float32", "uint8", "int8"]),
    quantized=st.booleans(),
    activation=st.sampled_from([None, "relu", "relu6", "gelu", "gelu_tanh", "silu"]),
    with_bias=st.booleans(),
    with_out=st.booleans(),
    zero_points=st.tuples(st.integers(0, 127), st.integers(0, 255)),
)
def test_fast_lane_equals_the_general_path(
    m: int,
    n: int,
    k: int,
    kind: str,
    quantized: bool,
    activation: Any,
    with_bias: bool,
    with_out: bool,
    zero_points: tuple[int, int],
) -> None:
    rng = np.random.default_rng([m, n, k])
    scale = rng.uniform(0.001, 0.1, n).astype(np.float32)
    w = ek.pack_weights(fill_integers((k, n), np.int8, "random", 5), scale=scale)
    bias = rng.normal(size=n).astype(np.float32) if with_bias else None
    floats = kind == "float32"
    x = rng.normal(size=(m, k)).astype(np.float32) if floats else fill_integers((m, k), np.dtype(kind), "random", 6)
    x_scale, y_scale = None if floats else 0.02, None if floats or not quantized else 0.05
    dtype = "float32" if y_scale is None else "uint8"
    lo, hi = CLAMPS.get(activation, (0.0, 0.0))
    curve = "clamp" if activation in CLAMPS else activation
    xz, yz = zero_points[0] if not floats else 0, zero_points[1] if y_scale is not None else 0
    expected = _core.linear(x, w, bias, curve, lo, hi, None, x_scale, xz, y_scale, yz, dtype, None, "", 1)
    out = np.full((m, n), 3, dtype) if with_out else None
    settings: dict[str, Any] = {"x_scale": x_scale, "x_zero_point": xz, "y_scale": y_scale, "y_zero_point": yz}
    for threads in (None, 1, 2):
        got = ek.linear(x, w, bias=bias, activation=activation, out=out, num_threads=threads, **settings)
        assert out is None or got is out
        assert got.dtype == expected.dtype
        assert_array_equal(got, expected)


@pytest.mark.parametrize(
    "x",
    [
        np.repeat(X, 2, axis=1)[:, :12],
        X.astype(np.dtype(np.float32, metadata={"unit": "step"})),
        np.ma.masked_array(X),
        np.zeros((0, 12), np.float32),
    ],
    ids=["strided", "another descriptor", "subclass", "empty"],
)
def test_arrays_of_other_kinds_take_the_general_path(x: Any) -> None:
    assert_array_equal(ek.linear(x, W), ek.linear(np.array(x, np.float32), W))


def test_arguments_may_be_spelled_in_every_legal_way() -> None:
    expected = ek.linear(X, W, bias=BIAS)
    for got in (
        ek.linear(x=X, w=W, bias=BIAS),
        ek.linear(X, W, bias=BIAS, residual=None, out_dtype=None, x_quantization=None, out=None, num_threads=None),
        ek.linear(X, W, **{"".join(["bi", "as"]): BIAS}),  # a name that no compiler interned
        ek.linear(X, W, bias=BIAS, out_dtype=np.float32),
        ek.linear(X, W, bias=BIAS, x_quantization="row"),
        ek.linear(X, W, bias=BIAS, activation=(-np.inf, np.inf)),
        ek.linear(X, W, bias=BIAS, residual=np.zeros((5, 7), np.float32)),
    ):
        assert_array_equal(got, expected)
    settings: dict[str, Any] = {"x_scale": np.float64(0.02), "y_scale": np.float64(0.05), "y_zero_point": np.uint8(9)}
    assert_array_equal(ek.linear(Q, W, **settings), ek.linear(Q, W, **STATIC, y_zero_point=9))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ek.linear(X), TypeError, "missing 1 required positional argument: 'w'"),
        (lambda: ek.linear(X, W, BIAS), TypeError, "takes 2 positional arguments but 3 were given"),
        (lambda: ek.linear(X, W, x=X), TypeError, "multiple values for argument 'x'"),
        (lambda: ek.linear(X, W, scale=1.0), TypeError, "unexpected keyword argument 'scale'"),
        (lambda: ek.linear(X, X), ArgumentTypeError, "w must be the result of pack_weights"),
        (lambda: ek.linear(X[:, :3], W), ArgumentValueError, "inner dimensions must match"),
        (lambda: ek.linear(X, W, x_scale=1.0), ArgumentValueError, "x_scale is for 8-bit x"),
        (lambda: ek.linear(X, W, y_scale=1.0), ArgumentValueError, "y_scale needs 8-bit x"),
        (lambda: ek.linear(Q, W), ArgumentValueError, "x_scale must be given"),
        (lambda: ek.linear(Q, W, x_scale=0.0), ArgumentValueError, "scales must be positive and finite"),
        (lambda: ek.linear(Q, W, x_scale=1.0, x_zero_point=256), ArgumentValueError, "x_zero_point must lie in"),
        (lambda: ek.linear(X, W, x_zero_point=9), ArgumentValueError, "x_zero_point is for 8-bit x"),
        (lambda: ek.linear(Q, W, x_scale=1.0, y_zero_point=9), ArgumentValueError, "y_zero_point needs y_scale"),
        (lambda: ek.linear(X, W, out_dtype=">f2"), ArgumentTypeError, "out_dtype must be float32, float16 or bfloat16"),
        (lambda: ek.linear(X, W, out_dtype=">f4"), ArgumentTypeError, "out_dtype must be float32, float16 or bfloat16"),
        (lambda: ek.linear(X, W, bias=BIAS[:3]), ArgumentValueError, "bias must have shape"),
        (lambda: ek.linear(X, W, bias=BIAS.astype(float)), ArgumentTypeError, "bias must be a float32 array"),
        (lambda: ek.linear(X, W, activation="tanh"), ArgumentValueError, "activation must be"),
        (lambda: ek.linear(X, W, num_threads=0), ArgumentValueError, "num_threads must be an integer"),
        (lambda: ek.linear(X, W, bias=BIAS, out=np.broadcast_to(BIAS, (5, 7))), ArgumentValueError, "out"),
        (lambda: ek.linear(Q, W, bias=BIAS * 1e20, **STATIC), ArgumentValueError, "too large for an int32 accumulator"),
    ],
)
def test_wrong_calls_are_refused_in_the_same_words(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_result_may_not_lie_on_an_operand() -> None:
    memory = np.zeros(200, np.float32)
    x, bias, out = memory[:60].reshape(5, 12), memory[60:67], memory[50:85].reshape(5, 7)
    with pytest.raises(ArgumentValueError, match="out overlaps x"):
        ek.linear(x, W, out=out)
    with pytest.raises(ArgumentValueError, match="out overlaps bias"):
        ek.linear(X, W, bias=bias, out=out)


def test_it_is_a_function_like_any_other() -> None:
    names = "x w bias activation residual x_scale x_zero_point y_scale y_zero_point x_quantization out_dtype out"
    assert list(inspect.signature(ek.linear).parameters) == [*names.split(), "num_threads"]
    assert "multiply by weights of 8, 4 or 2 bits" in (ek.linear.__doc__ or "").lower()
    assert pickle.loads(pickle.dumps(ek.linear)) is ek.linear


def test_references_are_neither_lost_nor_kept() -> None:
    out = np.zeros((5, 7), np.float32)

    def counts() -> list[int]:
        return [sys.getrefcount(x) for x in (X, W, BIAS, out)]

    before = counts()
    for _ in range(1000):
        ek.linear(X, W, bias=BIAS, out=out)
        ek.linear(X, W, bias=BIAS, activation="silu")
        with pytest.raises(ArgumentValueError):
            ek.linear(X, W, bias=BIAS, out=out[:4])
    assert counts() == before


def _unaligned(shape: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Rows of float32 in records of an odd size."""
    return np.zeros(shape[0], [("x", "f4", (shape[1],)), ("flag", "u1")])["x"]


def test_floats_that_do_not_lie_at_multiples_of_four_bytes_are_refused() -> None:
    x, residual = _unaligned((5, 12)), _unaligned((5, 7))
    bias = np.zeros(29, np.uint8)[1:].view(np.float32)
    for call, argument in (
        (lambda: ek.linear(x, W), "x"),
        (lambda: ek.linear(X, W, residual=residual), "residual"),
        (lambda: ek.linear(X, W, bias=bias), "bias"),
        (lambda: ek.quantize_linear(bias, 0.1), "x"),
        (lambda: ek.dynamic_quantize(np.zeros(29, np.uint8)[1:].view(np.float32)[None]), "x"),
    ):
        with pytest.raises(
            ArgumentValueError, match=f"{argument} has elements that do not lie at multiples of 4 bytes"
        ):
            call()
    assert_array_equal(ek.linear(x.copy(), W), np.zeros((5, 7), np.float32))


def test_packed_weights_are_made_by_pack_weights_alone() -> None:
    with pytest.raises(TypeError, match="PackedWeights: has no constructor"):
        ek.PackedWeights()
    with pytest.raises(TypeError, match="is not safe"):
        ek.PackedWeights.__new__(ek.PackedWeights)
