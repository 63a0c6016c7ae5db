"""The calibrator: from a float model and batches to the ranges of its activations."""

import os
import pickle
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from edgekern.calibration import (
    Calibrator,
    Histogram,
    Method,
    Ranges,
    observed_tensors,
    weighted_inputs,
)
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, EdgekernWarning
from edgekern.graph.opset import newest_opset

from calibrator_models import model_of, small_cnn

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
helper = onnx.helper
FLOAT = onnx.TensorProto.FLOAT
NEWEST = newest_opset()

Feeds = dict[str, npt.NDArray[np.float32]]


@pytest.fixture
def batches(rng: np.random.Generator) -> list[Feeds]:
    return [{"x": rng.normal(size=(n, 3, 8, 8)).astype(np.float32)} for n in (4, 4, 2, 4, 1)]


# --- what is observed


def test_float_inputs_and_float_node_outputs_are_observed() -> None:
    assert observed_tensors(small_cnn()) == ["x", "conv", "relu", "pooled", "flat", "y"]
    constant = helper.make_node("Constant", [], ["c"], value=onnx.numpy_helper.from_array(np.float32(2)))
    dropout = helper.make_node("Dropout", ["x"], ["kept", "mask"])
    add = helper.make_node("Add", ["kept", "c"], ["y"])
    assert observed_tensors(model_of([constant, dropout, add], [2])) == ["x", "kept", "y"]


def test_histograms_hold_what_onnxruntime_computes(batches: list[Feeds]) -> None:
    calibrator = Calibrator(small_cnn(), progress=False).collect_many(batches)
    assert calibrator.num_batches == 5
    assert calibrator.input_names == ["x"]
    model = small_cnn()
    model.graph.output.extend([helper.make_tensor_value_info(n, FLOAT, None) for n in ("conv", "relu")])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = {name: Histogram() for name in ("x", "y", "conv", "relu")}
    for feeds in batches:
        for name, value in zip(("y", "conv", "relu"), session.run(["y", "conv", "relu"], feeds), strict=True):
            expected[name].update(value)
        expected["x"].update(feeds["x"])
    for name, histogram in expected.items():
        found = calibrator.histograms[name]
        assert (found.count, found.num_zero) == (histogram.count, histogram.num_zero)
        assert_allclose([found.min, found.max], [histogram.min, histogram.max], rtol=1e-5)


def test_named_tensors_alone_are_observed(batches: list[Feeds]) -> None:
    calibrator = Calibrator(small_cnn(), tensors=["relu"], progress=False).collect(batches[0])
    assert list(calibrator.compute_ranges("max")) == ["relu"]
    with pytest.raises(ArgumentValueError, match="tensors names 'shape', which is no float activation"):
        Calibrator(small_cnn(), tensors=["shape"])


def test_other_float_types_are_observed() -> None:
    cast = helper.make_node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16)
    twice = helper.make_node("Add", ["half", "half"], ["y"])
    model = model_of([cast, twice], ["n"], types=(onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16))
    ranges = Calibrator(model, progress=False).collect({"x": np.array([-1.0, 0.1])}).compute_ranges("max")
    assert (ranges["x"].hi, ranges["y_float32"].lo) == (float(np.float32(0.1)), -2.0)
    assert ranges["half_float32"].hi == float(np.float16(0.1))


# --- the same bits for every order


@pytest.mark.parametrize("method", ["max", "percentile", "mse", "entropy"])
def test_order_merging_and_resuming_change_nothing(method: Method, batches: list[Feeds]) -> None:
    model = small_cnn()
    expected = Calibrator(model, progress=False).collect_many(batches).compute_ranges(method)

    shuffled = random.Random(1).sample(batches, len(batches))
    assert Calibrator(model, progress=False).collect_many(shuffled).compute_ranges(method) == expected

    first = Calibrator(model, progress=False).collect_many(batches[:2])
    second = Calibrator(model.SerializeToString(), progress=False).collect_many(iter(batches[2:]))
    assert second.merge(first).compute_ranges(method) == expected
    assert second.num_batches == 5

    saved = pickle.loads(pickle.dumps(first.state_dict()))
    resumed = Calibrator(model, progress=False).load_state_dict(saved).collect_many(batches[2:])
    assert resumed.compute_ranges(method) == expected


def test_batches_of_other_models_do_not_mix(batches: list[Feeds]) -> None:
    calibrator = Calibrator(small_cnn(), progress=False).collect(batches[0])
    other = Calibrator(small_cnn(opset=18), progress=False).collect(batches[0])
    part = Calibrator(small_cnn(), tensors=["x"], progress=False).collect(batches[0])
    with pytest.raises(CalibrationError, match="other is of another model"):
        calibrator.merge(other)
    with pytest.raises(CalibrationError, match="state is of another model"):
        calibrator.load_state_dict(other.state_dict())
    with pytest.raises(CalibrationError, match="other observes other tensors; 'conv' is in one of them only"):
        calibrator.merge(part)
    with pytest.raises(CalibrationError, match="state is not one that state_dict"):
        calibrator.load_state_dict({"format": "x"})
    with pytest.raises(ArgumentTypeError, match="other must be a Calibrator, got dict"):
        calibrator.merge({})  # type: ignore[arg-type]


# --- odd data


def test_no_batch_is_an_error() -> None:
    calibrator = Calibrator(small_cnn(), progress=False)
    calibrator.collect({"x": np.zeros((0, 3, 8, 8), np.float32)})
    with pytest.raises(CalibrationError, match="compute_ranges: no batch was collected"):
        calibrator.compute_ranges()


def test_nan_and_infinities_are_reported_by_tensor_and_survived(batches: list[Feeds]) -> None:
    feeds = {"x": batches[0]["x"].copy()}
    feeds["x"][0, 0, 0, 0] = np.nan
    feeds["x"][1, 0, 0, 0] = np.inf
    calibrator = Calibrator(small_cnn(), tensors=["x"], progress=False).collect(feeds)
    with pytest.warns(EdgekernWarning, match="tensor 'x': 1 NaN and 1 infinite of 768 values were left out"):
        ranges = calibrator.compute_ranges("max")
    assert (ranges["x"].num_nan, ranges["x"].num_inf, ranges["x"].count) == (1, 1, 766)
    finite = feeds["x"][np.isfinite(feeds["x"])]
    assert (ranges["x"].lo, ranges["x"].hi) == (finite.min(), finite.max())


def test_a_tensor_without_a_finite_value_is_named() -> None:
    root = helper.make_node("Sqrt", ["x"], ["y"])
    calibrator = Calibrator(model_of([root], ["n"]), progress=False).collect({"x": np.full(3, -1, np.float32)})
    with pytest.raises(CalibrationError, match="tensor 'y' had no finite value"):
        calibrator.compute_ranges()


@pytest.mark.parametrize("method", ["max", "percentile", "mse", "entropy"])
def test_an_all_zero_tensor_is_reported_and_survived(method: Method) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    calibrator = Calibrator(model_of([relu], ["n"]), progress=False).collect({"x": np.full(5, -1, np.float32)})
    with pytest.warns(EdgekernWarning, match=r"tensor 'y': all 5 values were 0, so its scale will be 1\.0"):
        ranges = calibrator.compute_ranges(method)
    assert (ranges["y"].lo, ranges["y"].hi) == (0.0, 0.0)
    assert (ranges["x"].lo, ranges["x"].hi) == (-1.0, 0.0)


@pytest.mark.parametrize(("num_bits", "least"), [(8, 15), (7, 9), (4, 3)])
def test_tensors_that_their_ranges_lose_are_named_at_once(num_bits: int, least: int, rng: np.random.Generator) -> None:
    """A spectrum whose few peaks are 10,000 times the rest, beside an ordinary tensor."""
    nodes = [helper.make_node("Pow", ["x", "power"], ["peaks"]), helper.make_node("Tanh", ["x"], ["y"])]
    power = onnx.numpy_helper.from_array(np.float32(5), "power")
    x = np.exp(rng.normal(0, 1, 20_000)).astype(np.float32)
    calibrator = Calibrator(model_of(nodes, ["n"], weights=[power]), progress=False).collect({"x": x})
    with pytest.warns(
        EdgekernWarning, match=rf"[12] of 3 tensors have less than {least} dB .* noise of {num_bits} bits"
    ) as seen:
        ranges = calibrator.compute_ranges("percentile", percentile=99, num_bits=num_bits)
    [message] = [str(one.message) for one in seen]
    assert seen[0].filename == __file__
    for name, values in {"x": x, "peaks": x**5, "y": np.tanh(x)}.items():
        lo, hi = ranges[name].lo, ranges[name].hi
        step = (hi - lo) / (2**num_bits - 1)
        zero = round(-lo / step)
        codes = np.clip(np.rint(values.astype(np.float64) / step), -zero, 2**num_bits - 1 - zero)
        error = ((codes * step - values.astype(np.float64)) ** 2).mean()
        db = 10 * np.log10((values.astype(np.float64) ** 2).mean() / error)
        said = re.search(rf"'{name}' \((-?[\d.]+) dB, ([\d.]+) by mse\)", message)
        assert (said is not None) == (db < least)
        if said is not None:
            assert float(said[1]) == pytest.approx(db, abs=0.3)
            assert float(said[2]) > float(said[1])


def test_ordinary_and_few_valued_tensors_are_not_warned_about(rng: np.random.Generator) -> None:
    relu = helper.make_node("Relu", ["x"], ["y"])
    for values in (rng.normal(size=5000), rng.choice([0.0, 1.0], 5000), np.full(5000, 3.0), rng.uniform(-1, 1, 5000)):
        calibrator = Calibrator(model_of([relu], ["n"]), progress=False).collect({"x": values.astype(np.float32)})
        for method in ("max", "percentile", "mse", "entropy"):
            calibrator.compute_ranges(method)


@pytest.mark.parametrize("num_bits", [2, 3, 4, 5, 6, 7])
def test_ordinary_tensors_of_fewer_bits_are_not_warned_about(num_bits: int, rng: np.random.Generator) -> None:
    """89 of 101 tensors of a network had less than 15 dB in 4 bits, which is what 4 bits can do."""
    relu = helper.make_node("Relu", ["x"], ["y"])
    x = rng.normal(size=5000).astype(np.float32)
    calibrator = Calibrator(model_of([relu], ["n"]), progress=False).collect({"x": x})
    for method in ("max", "percentile", "mse") if num_bits > 3 else ("mse",):
        calibrator.compute_ranges(method, num_bits=num_bits)


def test_a_tensor_that_never_has_an_element_has_no_range() -> None:
    bounds = [onnx.numpy_helper.from_array(np.array([v], np.int64), n) for n, v in (("from", 1), ("to", 1))]
    nodes = [helper.make_node("Slice", ["x", "from", "to"], ["none"]), helper.make_node("Relu", ["x"], ["y"])]
    ranges = (
        Calibrator(model_of(nodes, ["n"], weights=bounds), progress=False)
        .collect({"x": np.ones(4, np.float32)})
        .compute_ranges("max")
    )
    assert list(ranges) == ["x", "y"]


def test_sequence_lengths_may_vary(rng: np.random.Generator) -> None:
    add = helper.make_node("Add", ["x", "x"], ["y"])
    calibrator = Calibrator(model_of([add], ["n", "length"]), progress=False)
    calibrator.collect_many({"x": rng.normal(size=(2, n)).astype(np.float32)} for n in (3, 17, 1))
    assert calibrator.histograms["y"].count == 42


# --- bad input


@pytest.mark.parametrize(
    ("feeds", "error", "message"),
    [
        ({}, ArgumentValueError, r"feeds lacks 'x'; the model's inputs are \['x'\]"),
        ({"x": None, "z": None}, ArgumentValueError, r"feeds has 'z', but the model's inputs are \['x'\]"),
        ([1], ArgumentTypeError, "feeds must be a dict of arrays by input name, got list; pass {'x': array}"),
        ({"x": np.zeros((1, 3, 8, 8))}, ArgumentTypeError, r"feeds\['x'\] must be float32, got float64"),
        ({"x": np.zeros((3, 8, 8), np.float32)}, ArgumentValueError, r"has shape \(3, 8, 8\), .* takes \(n, 3, h, w\)"),
        ({"x": np.zeros((1, 4, 8, 8), np.float32)}, ArgumentValueError, r"has shape \(1, 4, 8, 8\)"),
    ],
)
def test_bad_feeds_are_named(feeds: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=r"Calibrator\.collect: .*" + message):
        Calibrator(small_cnn(), progress=False).collect(feeds)


def test_one_batch_is_no_iterable_of_batches(batches: list[Feeds]) -> None:
    with pytest.raises(ArgumentTypeError, match="collect_many: batches must hold feeds"):
        Calibrator(small_cnn(), progress=False).collect_many(batches[0])  # type: ignore[arg-type]


def test_a_batch_that_onnxruntime_cannot_run_is_an_error() -> None:
    sizes = onnx.numpy_helper.from_array(np.array([2, -1], np.int64), "sizes")
    reshape = helper.make_node("Reshape", ["x", "sizes"], ["y"])
    calibrator = Calibrator(model_of([reshape], ["n"], weights=[sizes]), progress=False)
    with pytest.raises(CalibrationError, match=r"collect: onnxruntime could not run this batch: .*Reshape"):
        calibrator.collect({"x": np.zeros(3, np.float32)})


# --- models


# --- ranges


def test_options_reach_the_histograms_and_are_kept(batches: list[Feeds]) -> None:
    calibrator = Calibrator(small_cnn(), progress=False).collect_many(batches)
    ranges = calibrator.compute_ranges("percentile", percentile=99, symmetric=True)
    assert ranges.options == {"symmetric": True, "num_bits": 8, "percentile": 99}
    expected = calibrator.histograms["conv"].range("percentile", percentile=99, symmetric=True)
    assert (ranges["conv"].lo, ranges["conv"].hi) == expected
    assert_allclose(ranges["conv"].clipped_fraction, 0.01, rtol=0.05)
    with pytest.raises(ArgumentValueError, match=r"Calibrator\.compute_ranges: method must be one of"):
        calibrator.compute_ranges("kl")  # type: ignore[arg-type]


# --- progress and memory


def test_progress_is_drawn_on_terminals_only(
    batches: list[Feeds], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rich", reason="needs edgekern[toolkit]")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    Calibrator(small_cnn()).collect_many(batches).compute_ranges("max")
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    Calibrator(small_cnn(), progress=False).collect_many(batches)
    assert capfd.readouterr() == ("", "")
    Calibrator(small_cnn()).collect_many(batches)
    out, err = capfd.readouterr()
    assert out == ""
    assert "calibrating" in err
    assert "5/5" in err


PEAK_OF_CHILD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import numpy as np
    from edgekern.calibration import Calibrator

    model, num_batches = sys.argv[1], int(sys.argv[2])
    calibrator = Calibrator(model, progress=False)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the loop, not of the imports
    rng = np.random.default_rng(0)
    calibrator.collect_many(
        {"x": rng.standard_normal((1, 64, 64, 64), dtype=np.float32)} for _ in range(num_batches)
    )
    assert calibrator.histograms["y"].count == num_batches * 64**3
    status = Path("/proc/self/status").read_text()
    print(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    """
)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc")
def test_peak_memory_does_not_grow_with_the_number_of_batches(tmp_path: Path) -> None:
    names = ["x", "a", "b", "c", "y"]
    nodes = [
        helper.make_node(op, [names[i]], [names[i + 1]]) for i, op in enumerate(("Relu", "Neg", "Sigmoid", "Tanh"))
    ]
    path = tmp_path / "model.onnx"
    onnx.save_model(model_of(nodes, ["n", 64, 64, 64]), path)
    batch_kib = 4 * 64**3 * len(names) // 1024
    assert batch_kib >= 4096

    def peaks() -> Iterator[int]:
        for num_batches in (40, 1000):  # 40 fill what samples are kept
            arguments = [sys.executable, "-c", PEAK_OF_CHILD, str(path), str(num_batches)]
            yield int(subprocess.run(arguments, env=whole, capture_output=True, text=True, check=True).stdout)

    # Arrays in pages of their own, always: else the C library begins to keep them in its heap, in holes of all sizes.
    whole = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    few, many = peaks()
    assert many - few <= batch_kib


def test_collected_activations_are_not_kept(batches: list[Feeds]) -> None:
    state = Calibrator(small_cnn(), progress=False).collect_many(batches * 3).state_dict()
    counted = state["tensors"]["x"]["histogram"]
    assert_array_equal(counted["counts"].sum(), 3 * sum(feeds["x"].size for feeds in batches))
    assert counted["keys"].size < 65536


def test_ranges_carry_the_means_of_what_weights_multiply(tmp_path: Path, rng: np.random.Generator) -> None:
    model = small_cnn()
    x = rng.normal(size=(2, 3, 6, 6)).astype(np.float32)
    ranges = Calibrator(model, progress=False).collect({"x": x}).compute_ranges()
    assert {n for n, r in ranges.items() if r.channel_means is not None} == set(weighted_inputs(model)) & set(ranges)
    assert_allclose(np.array(ranges["x"].channel_means), x.mean(axis=(0, 2, 3), dtype=np.float64), atol=2.0**-31)
    ranges.save(tmp_path / "ranges.json")
    assert Ranges.load(tmp_path / "ranges.json") == ranges
