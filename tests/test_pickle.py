"""Packed weights in pickles and copies: what a model that holds them goes through."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentValueError


def packed(kind: str, rng: np.random.Generator) -> ek.PackedWeights:
    w = rng.integers(-8, 8, (200, 70)).astype(np.int8)
    if kind == "plain":
        return ek.pack_weights(w)
    if kind == "scaled":
        return ek.pack_weights(w, scale=rng.uniform(0.01, 0.1, 70).astype(np.float32))
    scale = rng.uniform(1e-9, 1e-7, (4, 70)).astype(np.float32)
    zero_point = rng.integers(-8, 8, (4, 70)) if kind == "asymmetric" else None
    return ek.pack_weights(w, scale=scale, zero_point=zero_point, bits=4, group_size=64)


def result(w: ek.PackedWeights, x: np.ndarray) -> np.ndarray:
    return ek.linear(x, w) if w.has_scale else ek.matmul_integer(ek.dynamic_quantize(x)[0], w)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", ["plain", "scaled", "symmetric", "asymmetric"])
def test_a_pickle_gives_the_same_weights(kind: str, protocol: int, rng: np.random.Generator) -> None:
    w, x = packed(kind, rng), rng.standard_normal((3, 200)).astype(np.float32)
    again = pickle.loads(pickle.dumps(w, protocol))
    assert (repr(again), again.has_scale) == (repr(w), w.has_scale)
    assert_array_equal(result(again, x), result(w, x))


def test_a_pickle_keeps_the_bytes_out_of_band(rng: np.random.Generator) -> None:
    w, x = packed("scaled", rng), rng.standard_normal((3, 200)).astype(np.float32)
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(w, 5, buffer_callback=buffers.append)
    assert len(head) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == w.nbytes + 80 * 4  # scales of columns padded to 16
    again = pickle.loads(head, buffers=buffers)
    expected = result(w, x)
    del w, buffers
    assert_array_equal(result(again, x), expected)


def test_a_copy_is_the_object_itself(rng: np.random.Generator) -> None:
    model = {"layers": [packed("scaled", rng)]}
    assert copy.copy(model["layers"][0]) is model["layers"][0]
    assert copy.deepcopy(model)["layers"][0] is model["layers"][0]


def damaged(state: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*state[:at], value, *state[at + 1 :])


def test_weights_of_another_layout_are_refused(rng: np.random.Generator) -> None:
    state = _core.packed_state(packed("scaled", rng))
    with pytest.raises(ArgumentValueError, match=r"layout version 2 and this edgekern reads 1; pack the weights again"):
        _core.restore_packed(*damaged(state, 0, 2))


@pytest.mark.parametrize("kind", ["plain", "scaled", "symmetric", "asymmetric"])
def test_damaged_pickles_are_refused(kind: str, rng: np.random.Generator) -> None:
    _layout, k, n, group, asymmetric, _unit, data, scale = state = _core.packed_state(packed(kind, rng))
    assert not data.flags.writeable
    for at, value in (
        (1, k + 4),
        (1, 2**63),
        (2, n + 64),
        (3, 96 if group else 32),
        (3, 0 if group else 128),
        (6, data[:-1]),
        (6, data.view(np.int8)),
        (7, np.ones(n + 16, np.float32)),
        (7, scale.astype(np.float64) if len(scale) else np.ones(1)),
    ):
        with pytest.raises(ArgumentValueError, match="PackedWeights: what was pickled is damaged; pickle them again"):
            _core.restore_packed(*damaged(state, at, value))
    if len(scale):
        with pytest.raises(ArgumentValueError, match="scale must be positive and finite, got nan for column 0"):
            _core.restore_packed(*damaged(state, 7, scale * np.float32(np.nan)))
    if group:
        with pytest.raises(ArgumentValueError, match="damaged"):
            _core.restore_packed(*damaged(state, 4, not asymmetric))
