"""Moments of what layers multiply: told by onnxruntime, which computes the layers."""

from contextlib import contextmanager

import numpy as np
import pytest
from onnx import helper

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError
from edgekern.graph.model import model_hash, open_model
from edgekern.quantization import layer_inputs
from edgekern.quantization.choose_encodings import layout_of
from edgekern.quantization.layer_inputs import LayerInputs
from edgekern.quantization.weights import INPUT_MEANS, SECOND_MOMENTS

from float_models import build, f32, run, samples, small_cnn

RNG = np.random.default_rng(7)
node = helper.make_node


def conv(*shape, image=(9, 8), **attributes):
    channels = shape[1] * attributes.get("group", 1)
    return [node("Conv", ["x", "w"], ["y"], **attributes)], shape, ["N", channels, *image[: len(shape) - 2]]


LAYERS = {
    "plain": conv(5, 3, 3, 3),
    "padded": conv(5, 3, 3, 2, pads=[1, 0, 2, 1]),
    "strided": conv(4, 2, 3, 3, pads=[1, 1, 1, 1], strides=[2, 3]),
    "dilated": conv(4, 2, 3, 2, dilations=[2, 3]),
    "same upper": conv(4, 2, 4, 3, auto_pad="SAME_UPPER", strides=[2, 2]),
    "same lower": conv(4, 2, 4, 3, auto_pad="SAME_LOWER", strides=[2, 1]),
    "valid": conv(4, 2, 3, 3, auto_pad="VALID"),
    "groups": conv(6, 2, 3, 3, group=3, pads=[1, 1, 1, 1]),
    "depthwise": conv(4, 1, 3, 3, group=4, pads=[1, 1, 1, 1]),
    "one axis": conv(4, 3, 3, pads=[1, 1]),
    "Gemm": ([node("Gemm", ["x", "w"], ["y"])], (12, 5), ["N", 12]),
    "transB": ([node("Gemm", ["x", "w"], ["y"], transB=1)], (5, 12), ["N", 12]),
    "transA": ([node("Gemm", ["x", "w"], ["y"], transA=1)], (12, 5), [12, "N"]),
    "MatMul": ([node("MatMul", ["x", "w"], ["y"])], (12, 5), ["N", 4, 12]),
    "vector": ([node("MatMul", ["x", "w"], ["y"])], (12,), ["N", 12]),
}


def moments_of(model, feeds):
    """Of every product, by the name of its result."""
    opened = open_model(model, function="test")
    graph = opened.to_ir().graph
    products = [n for n in graph if n.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose")]
    found = LayerInputs(opened, products, feeds, model_hash=model_hash(model), function="test")
    return {n.outputs[0].name: (n, found.statistics(n)) for n in products}


@pytest.mark.parametrize("kind", LAYERS)
def test_moments_say_what_a_layer_gives_whatever_its_weights(kind):
    """The mean and the mean square of each result, for weights that the moments know nothing of."""
    nodes, shape, sides = LAYERS[kind]
    weights = f32(RNG.normal(size=shape))
    model = build(nodes, {"w": weights}, sides)
    feeds = [{"x": f32(RNG.normal(size=[3 if side == "N" else side for side in sides]) + 0.3)} for _ in range(4)]
    [(layer, found)] = moments_of(model, feeds).values()
    layout = layout_of(layer, max(weights.ndim, 2))
    rows = layout.by_channel(weights[:, None] if weights.ndim == 1 else weights)
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    results = [run_one(model, feed["x"], kind) for feed in feeds]
    for row, weights_of_it in enumerate(rows):
        group = row * layout.groups // len(rows)
        seen = np.concatenate([result[row].reshape(-1) for result in results]).astype(np.float64)
        assert weights_of_it @ found[SECOND_MOMENTS][group] @ weights_of_it == pytest.approx((seen**2).mean(), rel=1e-4)
        assert weights_of_it @ found[INPUT_MEANS][group] == pytest.approx(seen.mean(), rel=1e-3, abs=1e-4)


def run_one(model, x, kind):
    """A result, its channels first."""
    [y] = run(model, x)
    return y[None] if kind == "vector" else np.moveaxis(y, 1 if y.ndim != 3 or kind == "one axis" else 2, 0)


def test_layers_with_more_windows_show_some_of_them_always_the_same(monkeypatch):
    nodes, shape, sides = LAYERS["padded"]
    model = build(nodes, {"w": f32(RNG.normal(size=shape))}, sides)
    feeds = [{"x": samples(RNG, 3, (3, 9, 8))} for _ in range(2)]
    [(_, whole)] = moments_of(model, feeds).values()
    monkeypatch.setattr(layer_inputs, "MOST_WINDOWS", 200)
    first, second = (moments_of(model, feeds)["y"][1] for _ in range(2))
    assert np.array_equal(first[SECOND_MOMENTS], second[SECOND_MOMENTS])
    assert not np.array_equal(first[SECOND_MOMENTS], whole[SECOND_MOMENTS])
    off = np.abs(first[SECOND_MOMENTS] - whole[SECOND_MOMENTS]).max()
    assert off < 0.5 * np.abs(whole[SECOND_MOMENTS]).max()


def test_samples_run_again_where_moments_do_not_fit_at_once(monkeypatch):
    model, feeds = small_cnn(), [{"x": samples(RNG, 2)} for _ in range(2)]
    whole = moments_of(model, feeds)
    monkeypatch.setattr(layer_inputs, "MOMENT_BYTES", 1)
    parts = moments_of(model, feeds)
    assert len(whole) == 4
    for name, (_, statistics) in whole.items():
        assert np.array_equal(statistics[SECOND_MOMENTS], parts[name][1][SECOND_MOMENTS])


@pytest.mark.parametrize("room", [1, 512 << 20])
def test_a_bar_counts_samples_and_layers(monkeypatch, room):
    monkeypatch.setattr(layer_inputs, "MOMENT_BYTES", room)
    done, totals = [], []

    @contextmanager
    def bar(description, total, *, enabled):
        totals.append(total)
        yield lambda: done.append(1)

    monkeypatch.setattr(layer_inputs, "progress_bar", bar)
    model, x = small_cnn(), samples(RNG, 4)
    ranges = ek.Calibrator(model).collect({"x": x}).compute_ranges()
    ek.quantize(model, ranges, ek.QuantConfig(recipe="w4a8", rounding="gptq"), samples=[{"x": x[:1]}, {"x": x[1:]}])
    assert totals == [len(done)] == [4 + 2 * (4 if room == 1 else 1)]


def test_products_without_moments_have_none():
    weights = {"w": f32(RNG.normal(size=(3, 2, 2, 2))), "m": f32(RNG.normal(size=(2, 10, 4)))}
    model = build([node("ConvTranspose", ["x", "w"], ["t"]), node("MatMul", ["t", "m"], ["y"])], weights, [1, 3, 9, 9])
    assert [found for _, found in moments_of(model, [{"x": samples(RNG, 1, (3, 9, 9))}]).values()] == [{}, {}]


def test_a_calibrator_gives_the_samples_that_it_kept():
    model, x = small_cnn(), samples(RNG, 4)
    calibrator = ek.Calibrator(model).collect({"x": x})
    kept, given = moments_of(model, calibrator), moments_of(model, calibrator.kept_feeds)
    for name, (_, statistics) in kept.items():
        assert np.array_equal(statistics[SECOND_MOMENTS], given[name][1][SECOND_MOMENTS])
    with pytest.raises(CalibrationError, match="another model"):
        moments_of(small_cnn(opset=13), calibrator)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (3, ArgumentTypeError, "must be a Calibrator or an iterable of feeds, got int"),
        ({"x": np.zeros(3)}, ArgumentTypeError, "must be a Calibrator or an iterable of feeds, got dict"),
        ([], CalibrationError, "samples are none"),
        ([{"z": np.zeros(3)}], ArgumentValueError, "feeds has 'z'"),
        ([{"x": np.zeros((1, 3, 12, 12))}], ArgumentTypeError, "must be float32"),
    ],
)
def test_what_is_no_sample_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        moments_of(small_cnn(), given)
