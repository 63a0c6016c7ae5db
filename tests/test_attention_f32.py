"""ATTENTION_F32: softmax of scores times values, in blocks of rows, one result on all ISAs and threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import StepKind
from edgekern.errors import ArtifactError
from float_steps import digest, floats

from one_step import assert_equals_reference, one_step

# SHA-256 of what every machine makes of fixed floats; tests/reference computed it.
GOLDEN = "9e91b418f8075bb3"


def attention(heads, rows, keys, depth, width, mask=None, turned=False, scale=0.25, change=None):
    """Heads lie side by side, as projections leave them; the keys also turned, (heads, depth, keys)."""
    arguments = {
        "batch": [1, 1, 1, heads],
        "rows": rows,
        "keys": keys,
        "depth": depth,
        "value_depth": width,
        "q_batch": [0, 0, 0, depth],
        "k_batch": [0, 0, 0, depth * keys if turned else depth],
        "v_batch": [0, 0, 0, width],
        "mask_batch": [0, 0, 0, 0],
        "y_batch": [0, 0, 0, width],
        "q_row": heads * depth,
        "k_row": 1 if turned else heads * depth,
        "k_depth": keys if turned else 1,
        "v_row": heads * width,
        "mask_row": 0 if mask is None or len(mask) == 1 else mask.shape[1],
        "mask_column": mask is not None and mask.shape[1] > 1,
        "y_row": heads * width,
        "scale": scale,
        **(change or {}),
    }
    inputs = operands(heads, rows, keys, depth, width, turned=turned) + ([] if mask is None else [mask])
    return one_step(StepKind.ATTENTION_F32, inputs, ((rows, heads * width), np.float32), **arguments)


def operands(heads, rows, keys, depth, width, seed=1, turned=False):
    k = (heads * depth, keys) if turned else (keys, heads * depth)
    return [floats(seed, rows, heads * depth), floats(seed + 1, *k), floats(seed + 2, keys, heads * width)]


def float64_attention(heads, q, k, v, mask, scale, turned):
    q, k, v = (x.astype(np.float64) for x in (q, k.T if turned else k, v))
    q, k, v = (x.reshape(len(x), heads, -1).transpose(1, 0, 2) for x in (q, k, v))
    scores = q @ k.transpose(0, 2, 1) * scale + (0 if mask is None else mask.astype(np.float64))
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return (e / e.sum(axis=-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)


@given(
    heads=st.integers(1, 4),
    rows=st.integers(1, 30),
    keys=st.integers(1, 70),
    depth=st.sampled_from([1, 8, 20]),
    width=st.sampled_from([1, 16, 23]),
    masked=st.sampled_from([None, (True, True), (False, True), (True, False)]),
    turned=st.booleans(),
    spread=st.sampled_from([0.1, 1.0, 40.0]),
    seed=st.integers(0, 99),
)
def test_any_attention_equals_the_reference_and_is_close_to_float64(
    heads, rows, keys, depth, width, masked, turned, spread, seed
):
    q, k, v = operands(heads, rows, keys, depth, width, seed, turned)
    mask = None
    if masked is not None:
        mask = floats(seed + 3, rows if masked[0] else 1, keys if masked[1] else 1)
        mask[:, 1:][mask[:, 1:] > 1] = -np.inf
    program = attention(heads, rows, keys, depth, width, mask, turned, scale=spread)
    result = assert_equals_reference(program, [q, k, v] if mask is None else [q, k, v, mask])
    truth = float64_attention(heads, q, k, v, mask, spread, turned)
    most = np.abs(q).max() * np.abs(k).max() * depth * spread  # a score's rounding is a factor of its exponential
    assert np.abs(result - truth).max() <= 1e-6 * (1 + most) * np.abs(v).max()


@pytest.mark.parametrize(("rows", "keys"), [(200, 130), (3, 3000), (1, 17)])
def test_blocks_of_rows_and_many_keys(rows, keys):
    q, k, v = operands(2, rows, keys, 32, 32)
    result = assert_equals_reference(attention(2, rows, keys, 32, 32), [q, k, v])
    np.testing.assert_allclose(result, float64_attention(2, q, k, v, None, 0.25, False), atol=1e-5)


def test_a_row_of_which_nothing_is_seen_is_nan_and_hurts_no_other():
    q, k, v = operands(2, 9, 21, 8, 16)
    mask = np.zeros((9, 21), np.float32)
    mask[4] = -np.inf
    result = assert_equals_reference(attention(2, 9, 21, 8, 16, mask), [q, k, v, mask])
    assert np.isnan(result).all(axis=1).tolist() == [row == 4 for row in range(9)]
    assert not np.isnan(np.delete(result, 4, axis=0)).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"q_row": 17}, "operands leave their tensors"),
        ({"k_depth": 2}, "operands leave their tensors"),
        ({"mask_row": 1000}, "operands leave their tensors"),
        ({"y_row": 16}, "its result does not fill its tensor"),
        ({"keys": 0}, "damaged keys"),
    ],
)
def test_steps_that_leave_a_tensor_are_refused(change, reason):
    mask = floats(4, 5, 7)
    with pytest.raises(ArtifactError, match=reason):
        attention(2, 5, 7, 8, 16, mask, change=change)


def golden_program():
    return attention(3, 14, 37, 20, 18, floats(4, 1, 37))


def test_golden_bytes(isa):
    q, k, v = operands(3, 14, 37, 20, 18)
    feeds = {"x0": q, "x1": k, "x2": v, "x3": floats(4, 1, 37)}
    [result] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert digest(result) == GOLDEN
    assert golden_program().paths(isa=isa) == ("attention",)
