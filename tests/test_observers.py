"""Observers: a function of the samples alone, however they come, are merged, saved and sent."""

import itertools
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_equal

from edgekern.calibration import Calibrator
from edgekern.calibration.observers.base import Kind, Observer, reading_state
from edgekern.calibration.observers.kinds import KINDS
from edgekern.calibration.observers.means import ChannelMeans
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError

from strategies import float_arrays

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")

Array = npt.NDArray[Any]
each_kind = pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind].needs_order])


def observed(kind: str, *arrays: Array) -> Observer:
    """A new observer that has seen these arrays."""
    observer: Observer = KINDS[kind].make()
    for x in arrays:
        observer.update(x)
    return observer


def assert_same(found: Observer, expected: Observer) -> None:
    assert_equal(found.state_dict(), expected.state_dict())


@st.composite
def samples(draw: st.DrawFn, least: int = 3, most: int = 3) -> Array:
    """Arrays of (samples, channels, values), with channels between two numbers."""
    shape = (draw(st.integers(0, 6)), draw(st.integers(least, most)), draw(st.integers(1, 4)))
    return draw(float_arrays(shape, special=True))


# ---- a function of the samples ----


@each_kind
@given(x=samples(), data=st.data())
def test_any_split_in_any_order_is_the_whole(kind: str, x: Array, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    parts = data.draw(st.permutations([x[a:b] for a, b in itertools.pairwise([0, *cuts, len(x)])]))
    whole, merged = observed(kind, x), observed(kind)
    for part in parts:
        merged.merge(observed(kind, part[::-1]))
    assert_same(merged, whole)
    assert_same(observed(kind, *parts), whole)


@each_kind
@given(arrays=st.tuples(*[samples(1, 3)] * 3))
def test_merging_is_associative_and_commutative(kind: str, arrays: tuple[Array, ...]) -> None:
    """Whatever was seen: tensors whose channels change in number, too."""
    a, b, c = arrays
    left = observed(kind, a).merge(observed(kind, b)).merge(observed(kind, c))
    assert_same(observed(kind, a).merge(observed(kind, b).merge(observed(kind, c))), left)
    assert_same(observed(kind, c).merge(observed(kind, b)).merge(observed(kind, a)), left)
    assert_same(observed(kind, a, b, c), left)
    assert_same(observed(kind).merge(observed(kind, a)), observed(kind, a).merge(observed(kind)))


@each_kind
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_types_are_observed(kind: str, dtype: npt.DTypeLike, rng: np.random.Generator) -> None:
    x = rng.integers(-50, 50, (4, 3, 5)).astype(dtype)
    assert_same(observed(kind, x), observed(kind, x.astype(np.float32)))


# ---- states ----


@each_kind
@given(arrays=st.lists(samples(1, 3), max_size=3))
def test_a_state_comes_back_from_numpy_and_json(
    kind: str, arrays: list[Array], tmp_path_factory: pytest.TempPathFactory
) -> None:
    observer = observed(kind, *arrays)
    state = observer.state_dict()
    path: Path = tmp_path_factory.getbasetemp() / f"{kind}.npz"
    np.savez(path, **state)
    text = json.dumps(state, default=lambda array: array.tolist())
    with np.load(path) as file:  # no pickles in it
        for saved in (dict(file), json.loads(text), pickle.loads(pickle.dumps(state))):
            again = observed(kind, np.ones((2, 5, 1), np.float32)).load_state_dict(saved)
            assert_same(again, observer)
            assert_same(again.merge(observed(kind, *arrays)), observed(kind, *arrays, *arrays))


DAMAGE = {
    "histogram": [
        {"keys": np.array([0x3F80], np.uint16)},
        {"keys": [0x3F80, -1]},
        {"keys": [0x3F80, 70000]},
        {"keys": [0.5, 1.5]},
        {"counts": [-1, 1]},
        {"counts": [1.5, 1.5]},
        {"counts": [[1, 1]]},
        {"num_zero": 1.5},
        {"num_nan": -1},
        {"num_inf": "many"},
        {"min": None},
        {"max": 1e30},
    ],
    "channel_means": [
        {"samples": -1},
        {"samples": 0},
        {"samples": 1.5},
        {"mixed": 1},
        {"mixed": 2},
        {"sums": None},
        {"sums": []},
        {"sums": "12"},
        {"sums": [1.5, 2.5]},
        {"sums": ["1", "two"]},
        {"sums": ["1", "9" * 60]},
    ],
    "channel_statistics": [
        {"samples": 0},
        {"samples": -1},
        {"mixed": 2},
        {"sums": ["1"]},
        {"squares": ["1", "-2"]},
        {"squares": [1.5, 2.5]},
        {"min": [5.0, 5.0]},
        {"max": [np.nan, 1.0]},
        {"min": [1.0]},
    ],
    "gram": [
        {"rows": 0},
        {"rows": -1},
        {"rows": 1.5},
        {"refused": 2},
        {"refused": 1},
        {"high": [1.0]},
        {"high": [1.0, 2.0, 3.0]},
        {"high": [0.001, 0.0, 0.0, 0.0]},
        {"high": [np.inf, 0.0, 0.0, 0.0]},
        {"low": [1.0, 0.0, 0.0, 0.0]},
    ],
    "samples": [
        {"bits": [0.5, 0.5]},
        {"bits": [-1, 0]},
        {"bits": [0]},
        {"bits": [0, 0, 0]},
        {"shapes": ["2", "2"]},
        {"shapes": ["two"]},
        {"shapes": ["-2"]},
        {"end": "00"},
        {"end": "0" * 32},
        {"limit_bytes": -1},
        {"limit_bytes": 4},
    ],
}


@pytest.mark.parametrize(("kind", "change"), [(k, c) for k, changes in DAMAGE.items() for c in changes], ids=str)
def test_a_damaged_state_is_refused_and_changes_nothing(kind: str, change: dict[str, Any]) -> None:
    x = np.array([[1.0, -2.0]], np.float32)
    observer, state = observed(kind, x), observed(kind, x).state_dict()
    for damaged in (state | change, {name: state[name] for name in list(state)[1:]}, {}, 3):
        with pytest.raises(CalibrationError, match=r"\.load_state_dict: state is not one that state_dict\(\) made"):
            observer.load_state_dict(damaged)  # type: ignore[arg-type]
        assert_same(observer, observed(kind, x))


# ---- channel means ----


def test_channel_means_do_not_depend_on_order_or_batching(rng: np.random.Generator) -> None:
    x = (rng.normal(size=(9, 5, 4, 3)) * np.exp(rng.normal(size=(9, 5, 1, 1)) * 4)).astype(np.float32)
    whole = ChannelMeans().update(x).values()
    parts = [ChannelMeans().update(x[6:]), ChannelMeans().update(x[2:6][::-1]), ChannelMeans().update(x[:2])]
    merged = ChannelMeans()
    for part in parts:
        merged.merge(ChannelMeans().load_state_dict(pickle.loads(pickle.dumps(part.state_dict()))))
    assert merged.values() == whole
    assert whole is not None
    assert_allclose(whole, x.mean(axis=(0, 2, 3), dtype=np.float64), atol=2.0**-31)


def test_channel_means_leave_out_what_has_none(rng: np.random.Generator) -> None:
    x = rng.normal(size=(4, 3, 2)).astype(np.float32)
    odd = x.copy()
    odd[1, 2] = [np.nan, np.inf]
    means = ChannelMeans().update(odd).values()
    assert means is not None
    assert np.isfinite(means).all()
    assert ChannelMeans().values() is None
    assert ChannelMeans().update(x[0, 0]).values() is None  # no channel axis
    assert ChannelMeans().update(x).update(x[:, :2]).values() is None  # the number of channels changes
    assert ChannelMeans().update(x).merge(ChannelMeans().update(x[:, :2])).values() is None


def test_channel_means_take_what_is_infinite_as_float32_for_0() -> None:
    means = ChannelMeans().update(np.array([[[1e300, 1.0]], [[-1e39, np.inf]]])).values()
    assert means == (0.25,)


# ---- a kind of one's own ----


class Largest:
    """The largest magnitude of each channel."""

    def __init__(self) -> None:
        self.values: Array = np.zeros(0, np.float32)

    def update(self, x: Array) -> Self:
        return self._take(np.abs(x).max(axis=(0, *range(2, x.ndim)), initial=0))

    def merge(self, other: Self) -> Self:
        return self._take(other.values)

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state: Mapping[str, Any]) -> Self:
        with reading_state("Largest"):
            self.values = np.asarray(state["values"], np.float32)
        return self

    def _take(self, values: Array) -> Self:
        both = [array for array in (self.values, values) if array.size]
        self.values = np.max(both, axis=0) if both else values
        return self


def model() -> Any:
    helper = onnx.helper
    value = onnx.numpy_helper.from_array(np.eye(3, dtype=np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 3]) for name in "xy")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    graph = helper.make_graph(nodes, "test", [x], [y], [value])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_kind_of_ones_own_is_collected_merged_saved_and_sent(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setitem(KINDS, "largest", Kind(Largest, watches=lambda skeleton: ["x", "y"]))
    batches = [{"x": rng.normal(size=(4, 3)).astype(np.float32)} for _ in range(3)]
    first = Calibrator(model(), observers=["largest"], progress=False).collect_many(batches[:1])
    assert {name: set(kept) for name, kept in first.observers.items()} == {
        "x": {"histogram", "largest"},
        "m": {"histogram"},
        "y": {"histogram", "largest"},
    }
    sent = pickle.loads(pickle.dumps(first))
    resumed = Calibrator(model(), observers=["largest"], progress=False).load_state_dict(first.state_dict())
    rest = Calibrator(model(), observers=["largest"], progress=False).collect_many(batches[1:])
    everything = np.concatenate([feeds["x"] for feeds in batches])
    for calibrator in (sent, resumed, first):
        calibrator.merge(rest)
        assert_equal(calibrator.observers["x"]["largest"].state_dict()["values"], np.abs(everything).max(axis=0))
        assert_equal(calibrator.observers["y"]["largest"].state_dict()["values"], np.maximum(everything, 0).max(axis=0))


def test_an_average_that_has_an_order_is_collected_and_not_merged(rng: np.random.Generator) -> None:
    batches = [{"x": rng.normal(size=(4, 3)).astype(np.float32)} for _ in range(4)]
    first, second = (Calibrator(model(), observers=["moving_average"], progress=False) for _ in range(2))
    second.merge(first.collect_many(batches[:3]))
    expected = observed("moving_average", *(feeds["x"] for feeds in batches[:3]))
    assert_same(second.observers["x"]["moving_average"], expected)
    before = second.state_dict()
    with pytest.raises(CalibrationError, match=r"merge: 'moving_average' depends on the order of the batches"):
        second.merge(first)
    assert_equal(second.state_dict(), before)


def test_every_kind_is_collected_at_once(rng: np.random.Generator) -> None:
    batches = [{"x": rng.normal(size=(4, 3)).astype(np.float32)} for _ in range(3)]
    calibrator = Calibrator(model(), observers=list(KINDS), progress=False).collect_many(batches)
    for kind, observer in calibrator.observers["x"].items():
        assert_same(observer, observed(kind, *(feeds["x"] for feeds in batches)))
    assert set(calibrator.observers["x"]) == set(KINDS)
    assert_equal(pickle.loads(pickle.dumps(calibrator)).state_dict(), calibrator.state_dict())


def test_calibrators_with_other_observers_do_not_mix() -> None:
    usual, plain = Calibrator(model(), progress=False), Calibrator(model(), observers=[], progress=False)
    assert set(plain.observers["x"]) == {"histogram"}
    with pytest.raises(CalibrationError, match="merge: other has other observers of 'x'; 'channel_means' is in one of"):
        usual.merge(plain)
    with pytest.raises(CalibrationError, match="load_state_dict: state has other observers of 'x'"):
        plain.load_state_dict(usual.state_dict())
    with pytest.raises(
        ArgumentValueError, match=r"Calibrator: observers names 'median'; known are \['channel_means', "
    ):
        Calibrator(model(), observers=["median"])
    with pytest.raises(ArgumentTypeError, match="Calibrator: observers must be a list of names, got str"):
        Calibrator(model(), observers="histogram")


def test_a_damaged_state_of_a_calibrator_names_the_tensor_and_changes_nothing() -> None:
    calibrator = Calibrator(model(), progress=False).collect({"x": np.ones((2, 3), np.float32)})
    before = calibrator.state_dict()
    state = calibrator.state_dict()
    state["tensors"]["m"]["histogram"]["num_zero"] = 7
    named = r"^Calibrator\.load_state_dict: histogram of tensor 'm': Histogram\.load_state_dict: state is not one"
    with pytest.raises(CalibrationError, match=named):
        calibrator.load_state_dict(state)
    for change in ({"num_batches": -1}, {"num_batches": 1.5}, {"version": 1}, {"tensors": 3}, {"tensors": {"x": 3}}):
        with pytest.raises(CalibrationError, match=r"^Calibrator\.load_state_dict: state "):
            calibrator.load_state_dict(before | change)
    assert_equal(calibrator.state_dict(), before)
