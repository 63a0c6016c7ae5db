"""choose_ranges: of all methods the one whose quantized model is nearest to the float one, on other data, too."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.errors import ArgumentTypeError, CalibrationError, EdgekernWarning

pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")

from onnx import helper

from edgekern.quantization import try_methods
from edgekern.quantization.try_methods import FAR, FIRST_SAMPLES, METHODS

from float_models import STATIC, build, f32, run, sqnr_db

Array = npt.NDArray[Any]
node = helper.make_node
CHANNELS, SIDE = 8, 12
MOST_LOST = 3.0  # dB


def squeezing() -> tuple[Any, Callable[[np.random.Generator, int], Array]]:
    """Depthwise, hard-swish, squeeze-excite, 1x1, as in PP-LCNet: of one channel tails, which weights hardly read."""
    rng, most = np.random.default_rng(0), CHANNELS
    weights = {
        "depthwise": f32(rng.normal(size=(most, 1, 3, 3)) / 3),
        "squeeze": f32(rng.normal(size=(4, most, 1, 1)) / most**0.5),
        "excite": f32(rng.normal(size=(most, 4, 1, 1))),
        "project": f32(rng.normal(size=(most, most, 1, 1)) / most**0.5),
    }
    for name in ("squeeze", "project"):
        weights[name][:, 0] *= 1e-3
    nodes = [
        node("Conv", ["x", "depthwise"], ["c"], pads=[1] * 4, group=most),
        node("HardSwish", ["c"], ["w"]),
        node("GlobalAveragePool", ["w"], ["mean"]),
        node("Conv", ["mean", "squeeze"], ["q"]),
        node("Relu", ["q"], ["r"]),
        node("Conv", ["r", "excite"], ["e"]),
        node("HardSigmoid", ["e"], ["gate"], alpha=1 / 6),
        node("Mul", ["w", "gate"], ["m"]),
        node("Conv", ["m", "project"], ["y"]),
    ]

    def draw(rng: np.random.Generator, count: int) -> Array:
        x = rng.normal(size=(count, most, SIDE, SIDE))
        x[:, 0] = np.clip(0.3 * rng.standard_t(1.5, size=(count, SIDE, SIDE)), -300, 300)
        return f32(x)

    return build(nodes, weights, ["n", most, SIDE, SIDE]), draw


def marked() -> tuple[Any, Callable[[np.random.Generator, int], Array]]:
    """One pixel in 3500 is 287.2, in a channel that the weights hardly read."""
    rng = np.random.default_rng(0)
    weights = {"a": f32(rng.normal(size=(16, 3, 3, 3)) / 5), "b": f32(rng.normal(size=(8, 16, 3, 3)) / 12)}
    weights["a"][:, 2] *= 1e-3
    nodes = [
        node("Conv", ["x", "a"], ["h"], pads=[1] * 4),
        node("Relu", ["h"], ["r"]),
        node("Conv", ["r", "b"], ["y"], pads=[1] * 4),
    ]

    def draw(rng: np.random.Generator, count: int) -> Array:
        x = rng.normal(size=(count, 3, SIDE, SIDE))
        x[::8, 2, 0, 0] = 287.2
        return f32(x)

    return build(nodes, weights, ["n", 3, SIDE, SIDE]), draw


@pytest.mark.parametrize("net", [squeezing, marked])
def test_no_method_is_much_better_on_other_data(net: Callable[[], Any], rng: np.random.Generator) -> None:
    """The old default, mse, loses 10 dB and more on these."""
    model, draw = net()
    calibrator = ek.Calibrator(model, progress=False).collect({"x": draw(rng, 32)})
    others = draw(rng, 64)
    [exact] = run(model, others)

    def db(ranges: ek.Ranges) -> float:
        return sqnr_db(exact, run(ek.quantize(model, ranges, STATIC), others)[0])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # of what the ranges lose
        found = {name: db(calibrator.compute_ranges(**options)) for name, options in METHODS.items()}
        found["two-sided"] = db(calibrator.compute_ranges("entropy-two-sided"))
        chosen = ek.choose_ranges(calibrator, model, STATIC, progress=False)
        print({name: round(figure, 1) for name, figure in found.items()}, chosen.method)
        assert db(chosen) >= max(found.values()) - MOST_LOST
    assert found["mse"] < max(found.values()) - 10


@pytest.fixture(scope="module")
def calibrator() -> ek.Calibrator:
    train, _ = quickstart.load_digits()
    return ek.Calibrator(quickstart.MODEL, progress=False).collect({"image": train.images[:64]})


def error(model: bytes, calibrator: ek.Calibrator, count: int) -> float:
    """The mean over samples of the relative error."""
    import onnx

    float_model, quantized = onnx.load(quickstart.MODEL), onnx.load_from_string(model)
    errors = []
    for feeds in calibrator.kept_feeds[:count]:
        [want], [have] = (run(m, feeds["image"]) for m in (float_model, quantized))
        errors.append(np.linalg.norm(have - want) / np.linalg.norm(want))
    return float(np.mean(errors))


def test_the_chosen_ranges_are_those_of_the_nearest_model(calibrator: ek.Calibrator) -> None:
    models = {
        name: ek.quantize(quickstart.MODEL, calibrator.compute_ranges(**options)).SerializeToString()
        for name, options in METHODS.items()
    }
    first = {name: error(model, calibrator, FIRST_SAMPLES) for name, model in models.items()}
    near = [name for name in models if first[name] <= FAR * min(first.values())]
    errors = {name: error(models[name], calibrator, len(calibrator.kept_feeds)) for name in near}
    chosen = ek.choose_ranges(calibrator, quickstart.MODEL)
    found = error(ek.quantize(quickstart.MODEL, chosen).SerializeToString(), calibrator, len(calibrator.kept_feeds))
    assert found <= 1.02 * min(errors.values())
    assert min(first.values()) < 0.9 * max(first.values())
    assert chosen.method in {options["method"] for options in METHODS.values()}
    assert ek.choose_ranges(calibrator, quickstart.MODEL) == chosen


def test_codes_at_the_borders_do_not_matter(calibrator: ek.Calibrator) -> None:
    codes = ek.QuantConfig(inputs="uint8", outputs="uint8")
    assert ek.choose_ranges(calibrator, quickstart.MODEL, codes) == ek.choose_ranges(calibrator, quickstart.MODEL)


def test_far_methods_stop_and_large_outputs_are_few(calibrator: ek.Calibrator, monkeypatch: Any) -> None:
    ran: dict[str, int] = {}
    outputs = try_methods._outputs

    def counted(runner: Any, samples: Any, called: str) -> Any:
        for made in outputs(runner, samples, called):
            ran[called] = ran.get(called, 0) + 1
            yield made

    monkeypatch.setattr(try_methods, "_outputs", counted)
    ek.choose_ranges(calibrator, quickstart.MODEL)
    assert ran.pop("the model") == len(calibrator.kept_feeds) == 32
    assert set(ran) == {f"the model quantized by {name!r}" for name in METHODS}
    assert set(ran.values()) == {FIRST_SAMPLES, 32}
    ran.clear()
    monkeypatch.setattr(try_methods, "OUTPUT_BYTES", 3 * 40)  # of ten logits
    ek.choose_ranges(calibrator, quickstart.MODEL)
    assert ran.pop("the model") == 4  # the fourth does not fit
    assert set(ran.values()) == {3}


def test_the_calibrator_stays_as_it_was(calibrator: ek.Calibrator) -> None:
    before = calibrator.state_dict()
    ek.choose_ranges(calibrator, quickstart.MODEL)
    np.testing.assert_equal(calibrator.state_dict(), before)


def test_what_the_chosen_ranges_lose_is_said() -> None:
    model, draw = marked()
    calibrator = ek.Calibrator(model, progress=False).collect({"x": draw(np.random.default_rng(1), 32)})
    with pytest.warns(EdgekernWarning, match="tensors have less than 15 dB of signal") as said:
        chosen = ek.choose_ranges(calibrator, model, STATIC)
    [warning] = said
    assert warning.filename == __file__
    with pytest.warns(EdgekernWarning) as expected:
        calibrator.compute_ranges(**next(o for o in METHODS.values() if o["method"] == chosen.method))
    assert [str(w.message) for w in said] == [str(w.message) for w in expected]


def test_calibrate_takes_the_best_unless_a_method_is_named(tmp_path: Any, capsys: Any) -> None:
    train, _ = quickstart.load_digits()
    np.save(tmp_path / "data.npy", train.images[:64])
    file = tmp_path / "ranges.json"
    command = ["calibrate", str(quickstart.MODEL), str(tmp_path / "data.npy"), "-o", str(file)]
    for method, told in {"percentile": "percentile 99.99", "mse": "mse", "p-norm": "p-norm 2.4"}.items():
        assert cli.run([*command, "--method", method]) == 0
        assert capsys.readouterr().out.strip().endswith(f"ranges by {told}, of 64 samples")
    assert cli.run(command) == 0
    assert f", the best of {len(METHODS)} methods, of 64 samples" in capsys.readouterr().out
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect({"image": train.images[:64]})
    chosen = ek.choose_ranges(calibrator, quickstart.MODEL)
    assert ek.Ranges.load(file).tensors == chosen.tensors


def test_what_cannot_be_chosen_by_is_named(monkeypatch: Any, calibrator: ek.Calibrator) -> None:
    empty = ek.Calibrator(quickstart.MODEL, progress=False)
    with pytest.raises(CalibrationError, match="choose_ranges: calibrator kept no samples; collect some"):
        ek.choose_ranges(empty, quickstart.MODEL)
    with pytest.raises(ArgumentTypeError, match="choose_ranges: calibrator must be a Calibrator, got NoneType"):
        ek.choose_ranges(None, quickstart.MODEL)  # type: ignore[arg-type]
    broken = build([node("Identity", ["x"], ["y"])], {}, [2])
    monkeypatch.setattr(try_methods, "quantize", lambda *given, **named: broken)
    with pytest.raises(CalibrationError, match=r"could not run the model quantized by 'mse': .*; name a method"):
        ek.choose_ranges(calibrator, quickstart.MODEL)
