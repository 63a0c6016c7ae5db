"""The method "auto": ranges by what the readers of a tensor make of them, a function of the samples alone."""

import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekern.calibration import Calibrator, Ranges
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError, EdgekernWarning

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")

from edgekern.calibration import kept_feeds, score_outputs  # noqa: E402
from edgekern.calibration.kept_feeds import KeptFeeds  # noqa: E402
from edgekern.calibration.score_outputs import CANDIDATES, MOST_SAMPLES  # noqa: E402

Array = npt.NDArray[Any]
COLUMNS = 16


def model(weights: Array, batch: int | str = "n") -> Any:
    """MatMul, Relu, and a second MatMul behind a Reshape."""
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, len(weights)]) for name in "xy")
    stored = {"w": weights, "v": np.eye(len(weights), dtype=np.float32), "shape": np.array([-1, len(weights)])}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["s"]),
        helper.make_node("MatMul", ["s", "v"], ["y"]),
    ]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "test", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(rng: np.random.Generator, outlier: float, count: int = 40) -> Array:
    x = rng.normal(size=(count, COLUMNS)).astype(np.float32)
    x[::5, -1] = outlier
    return x


def collected(made: Any, *batches: Array, **options: Any) -> Calibrator:
    return Calibrator(made, progress=False, **options).collect_many([{"x": x} for x in batches])


def test_a_layer_that_ignores_the_outliers_cuts_them(rng: np.random.Generator) -> None:
    """Every range of the tensor's own values must hold them; the outputs do not know them."""
    weights = np.eye(1024, dtype=np.float32)  # the one that is large is less than a thousandth of a sample
    deaf = weights.copy()
    deaf[-1] = 0.0
    x = rng.normal(size=(20, 1024)).astype(np.float32)
    x[:, -1] = 300.0
    hears = collected(model(weights), x).compute_ranges("auto", symmetric=True)["x"]
    with pytest.warns(EdgekernWarning, match="1 of 5 tensors have less than 15 dB"):  # of its own signal
        ignores = collected(model(deaf), x).compute_ranges("auto", symmetric=True)["x"]
    assert hears.hi > 250
    assert ignores.hi < 0.5 * hears.hi
    assert {hears.method, ignores.method} <= set(CANDIDATES)


def test_auto_is_the_best_candidate_at_the_output(rng: np.random.Generator) -> None:
    """Of one layer, its error computed here."""
    weights = (rng.normal(size=(COLUMNS, COLUMNS)) * np.exp(rng.normal(size=(COLUMNS, 1)) * 2)).astype(np.float32)
    x = samples(rng, 40.0, count=MOST_SAMPLES)
    calibrator = collected(model(weights), x)
    chosen = calibrator.compute_ranges("auto")["x"]

    def error(lo: float, hi: float) -> float:
        scale = np.float32((hi - lo) / 255)
        zero = np.rint(-lo / scale)
        rounded = (np.clip(np.rint(x / scale), -zero, 255 - zero) * scale).astype(np.float32)
        return float(np.square((rounded - x).astype(np.float64) @ weights).sum())

    errors = {name: error(*calibrator.histograms["x"].range(**options)) for name, options in CANDIDATES.items()}
    assert len(set(errors.values())) > 2
    assert error(chosen.lo, chosen.hi) <= 1.0001 * min(errors.values())


@pytest.mark.parametrize("batch", ["n", 2])
def test_workers_batches_and_order_do_not_matter(batch: int | str, rng: np.random.Generator) -> None:
    made = model(rng.normal(size=(COLUMNS, COLUMNS)).astype(np.float32), batch)
    parts = np.split(samples(rng, 9.0), 20)
    whole = collected(made, *parts)
    workers = [collected(made, *parts[at::3]) for at in range(3)]
    merged = collected(made)
    for worker in reversed(workers):
        merged.merge(pickle.loads(pickle.dumps(worker)))
    resumed = collected(made).load_state_dict(whole.state_dict())
    expected = whole.compute_ranges("auto")
    assert merged.compute_ranges("auto") == expected
    assert resumed.compute_ranges("auto") == expected
    assert collected(made, *parts[::-1]).compute_ranges("auto") == expected
    if batch == "n":
        assert collected(made, np.concatenate(parts)).compute_ranges("auto") == expected


def test_auto_ranges_are_saved_with_what_chose_them(tmp_path: Any, rng: np.random.Generator) -> None:
    ranges = collected(model(np.eye(COLUMNS, dtype=np.float32)), samples(rng, 9.0)).compute_ranges("auto")
    ranges.save(tmp_path / "ranges.json")
    again = Ranges.load(tmp_path / "ranges.json")
    assert again == ranges
    assert again.method == "auto"
    assert again.options["samples"] == MOST_SAMPLES
    assert all(tensor.method in CANDIDATES for tensor in again.values())


def test_auto_runs_fewer_samples_of_a_large_model(monkeypatch: Any, rng: np.random.Generator) -> None:
    calibrator = collected(model(np.eye(COLUMNS, dtype=np.float32)), samples(rng, 9.0))
    values = 4 * COLUMNS  # what the model makes of a sample
    monkeypatch.setattr(score_outputs, "MOST_VALUES", 2 * values)
    assert calibrator.compute_ranges("auto").options["samples"] == 3  # the one that passes it is the last
    monkeypatch.setattr(score_outputs, "MOST_VALUES", 0)
    assert calibrator.compute_ranges("auto").options["samples"] == 1


def test_auto_without_samples_says_what_to_do(rng: np.random.Generator) -> None:
    made = model(np.eye(COLUMNS, dtype=np.float32))
    calibrator = collected(made, samples(rng, 9.0), kept_bytes=0)
    assert len(calibrator.compute_ranges("mse")) == 5
    with pytest.raises(
        CalibrationError, match=r"method 'auto' runs kept samples, and there are none; leave kept_bytes"
    ):
        calibrator.compute_ranges("auto")
    with pytest.raises(ArgumentValueError, match="Calibrator: kept_bytes must be at least 0, got -1"):
        Calibrator(made, kept_bytes=-1)
    with pytest.raises(ArgumentTypeError, match="Calibrator: kept_bytes must be an integer"):
        Calibrator(made, kept_bytes="1M")  # type: ignore[arg-type]


def test_a_damaged_state_of_samples_is_refused(rng: np.random.Generator) -> None:
    calibrator = collected(model(np.eye(COLUMNS, dtype=np.float32)), samples(rng, 9.0))
    state = calibrator.state_dict()
    for kept in (None, {}, {**state["kept"], "samples": [{"z": 1}]}, {**state["kept"], "samples": [{"x": "words"}]}):
        with pytest.raises(CalibrationError, match=r"Calibrator\.load_state_dict: state is not one"):
            calibrator.load_state_dict({**state, "kept": kept})


def test_kept_feeds_are_few_and_copied(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 4)).astype(np.float32)
    kept = KeptFeeds(1 << 20, by_row=True)
    kept.offer({"x": x})
    before = [arrays["x"].copy() for arrays in kept]
    x[:] = 0
    assert len(before) == kept_feeds.MOST_SAMPLES
    np.testing.assert_equal([arrays["x"] for arrays in kept], before)
    assert all(arrays["x"].shape == (1, 4) for arrays in kept)
    small = KeptFeeds(20, by_row=True)
    small.offer({"x": rng.normal(size=(50, 4)).astype(np.float32)})
    assert len(small) == 1  # however small the limit, one
