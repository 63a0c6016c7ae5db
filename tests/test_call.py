"""The public matmul_integer is a builtin with a fast lane: it must be told apart from the general path by time only."""

import inspect
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError

from reference import gemm as reference
from reference.quantize import bounds
from strategies import fill_integers


@given(
    m=st.integers(0, 70),
    n=st.integers(1, 140),
    k=st.integers(0, 200),
    dtype=st.sampled_from([np.uint8, np.int8]),
    with_out=st.booleans(),
    data=st.data(),
)
def test_fast_lane_equals_numpy(m: int, n: int, k: int, dtype: type, with_out: bool, data: st.DataObject) -> None:
    a, b = fill_integers((m, k), dtype, "random", 1), fill_integers((k, n), np.int8, "random", 2)
    lo, hi = bounds(np.dtype(dtype))
    zero_point = data.draw(st.integers(lo, hi))
    out = np.full((m, n), -1, np.int32) if with_out else None
    expected = reference.matmul_integer(a, b, zero_point)
    got = ek.matmul_integer(a, ek.pack_weights(b), a_zero_point=zero_point, out=out)
    assert out is None or got is out
    assert_array_equal(got, expected)


SHAPES = [(40, 64, 70), (65, 64, 1100), (3, 4097, 5), (700, 64, 70), (300, 300, 300)]
EACH_SIZE = f"""
import edgekern as ek
import kernel_calls
import numpy as np
from numpy.testing import assert_array_equal
from reference import gemm as reference
from strategies import fill_integers

kernel_calls.reset()
for m, n, k in {SHAPES}:
    for dtype in (np.uint8, np.int8):
        a, b = fill_integers((m, k), dtype, "random", 3), fill_integers((k, n), np.int8, "random", 4)
        for threads in (None, 1, 2, 100_000):
            got = ek.matmul_integer(a, ek.pack_weights(b), num_threads=threads)
            assert_array_equal(got, reference.matmul_integer(a, b))
assert list(kernel_calls.calls()) == [ek.cpu_info()["isa"]]
"""


def test_sizes_on_both_sides_of_every_limit(isa: str) -> None:
    """The package's ISA is read once, so each has a process of its own."""
    child = subprocess.run(
        [sys.executable, "-c", EACH_SIZE],
        cwd=Path(__file__).parent,
        env={**os.environ, "EDGEKERN_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr


A, B = fill_integers((5, 12), np.int8, "random", 5), fill_integers((12, 7), np.int8, "random", 6)


@pytest.mark.parametrize(
    "a",
    [
        fill_integers((5, 24), np.int8, "random", 7)[:, :12],
        A.astype(np.dtype(np.int8, metadata={"unit": "step"})),
        np.ma.masked_array(A),
        np.zeros((0, 12), np.uint8),
    ],
    ids=["strided", "another descriptor", "subclass", "empty"],
)
def test_arrays_of_other_kinds_take_the_general_path(a: Any) -> None:
    assert_array_equal(ek.matmul_integer(a, ek.pack_weights(B)), reference.matmul_integer(np.asarray(a), B))


def test_arguments_may_be_spelled_in_every_legal_way() -> None:
    packed, zeros = ek.pack_weights(B), np.arange(7)
    expected = reference.matmul_integer(A, B)
    names = {"".join(["b"]): packed}  # a name that no compiler interned
    for got in (
        ek.matmul_integer(a=A, b=packed),
        ek.matmul_integer(A, b=packed, out=None, num_threads=None, a_zero_point=0, b_zero_point=0),
        ek.matmul_integer(A, **names),
        ek.matmul_integer(A, B, num_threads=2),
        ek.matmul_integer(A, packed, a_zero_point=np.int8(0)),  # type: ignore[arg-type]
    ):
        assert_array_equal(got, expected)
    assert_array_equal(
        ek.matmul_integer(A, packed, a_zero_point=-3, b_zero_point=zeros), reference.matmul_integer(A, B, -3, zeros)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ek.matmul_integer(A), "missing required argument 'b'"),
        (lambda: ek.matmul_integer(A, B, 0), "at most 2 positional arguments"),
        (lambda: ek.matmul_integer(A, B, a=A), "a"),
        (lambda: ek.matmul_integer(A, B, zero_point=0), "zero_point"),
    ],
)
def test_illegal_spellings_are_type_errors(call: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("threads", [0, -1, True, 1.0, "2"])
def test_thread_counts_are_whole_numbers(threads: Any) -> None:
    with pytest.raises(ArgumentValueError, match=r"matmul_integer: num_threads must be an integer of at least 1, got"):
        ek.matmul_integer(A, ek.pack_weights(B), num_threads=threads)


def test_misaligned_out_is_refused() -> None:
    memory = np.zeros(5 * 7 * 4 + 1, np.uint8)
    out = memory[1:].view(np.int32).reshape(5, 7)
    for b in (B, ek.pack_weights(B)):
        with pytest.raises(ArgumentValueError, match="out does not start at a multiple of 4 bytes"):
            ek.matmul_integer(A, b, out=out)


def test_wrong_zero_points_are_refused_before_anything_is_written() -> None:
    out = np.full((5, 7), 9, np.int32)
    with pytest.raises(ArgumentValueError, match=r"a_zero_point must lie in \[-128, 127\]"):
        ek.matmul_integer(A, ek.pack_weights(B), a_zero_point=200, out=out)
    with pytest.raises(ArgumentTypeError, match="a_zero_point must be an integer, got float"):
        ek.matmul_integer(A, ek.pack_weights(B), a_zero_point=1.5, out=out)  # type: ignore[arg-type]
    assert_array_equal(out, 9)


def test_it_is_a_function_like_any_other() -> None:
    assert list(inspect.signature(ek.matmul_integer).parameters) == [
        *("a", "b", "a_zero_point", "b_zero_point", "out", "num_threads")
    ]
    assert "ONNX ``MatMulInteger``" in (ek.matmul_integer.__doc__ or "")
    assert pickle.loads(pickle.dumps(ek.matmul_integer)) is ek.matmul_integer


def test_references_are_neither_lost_nor_kept() -> None:
    packed, out = ek.pack_weights(B), np.zeros((5, 7), np.int32)

    def counts() -> list[int]:
        return [sys.getrefcount(x) for x in (A, packed, out)]

    before = counts()
    for _ in range(1000):
        ek.matmul_integer(A, packed, out=out)
        ek.matmul_integer(A, packed)
        with pytest.raises(ArgumentValueError):
            ek.matmul_integer(A, packed, out=out[:4])
    assert counts() == before


def test_many_python_threads_at_once_get_their_own_answers() -> None:
    packed = ek.pack_weights(fill_integers((256, 192), np.int8, "random", 8))
    operands = [fill_integers((m, 256), dt, "random", m) for m in (1, 17, 64, 130) for dt in (np.uint8, np.int8)]
    expected = [ek.matmul_integer(a, packed) for a in operands]
    wrong: list[int] = []

    def work(index: int) -> None:
        for turn in range(200):
            i = (index + turn) % len(operands)
            if not np.array_equal(ek.matmul_integer(operands[i], packed), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
