"""sensitivity: each layer rounded alone, seen at the outputs."""

import csv
import io
import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError, QuantizationError
from spoilt_models import products, spoilt

from graphs import Graph, feeds_of, onnxruntime_session
from real_models import real

W8A8 = ek.QuantConfig(recipe="w8a8")
PLAIN = ek.QuantConfig(recipe="w8a8", rounding="nearest", bias_correction=False)


def chain():
    """Four products, no branches."""
    g = Graph()
    y = g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 16, 4, 3, 3), g.vector(16), pads=[1] * 4)
    y = g.op("Conv", g.op("Relu", y), weights(g, 16, 1, 3, 3), group=16, pads=[1] * 4)
    y = g.op("Conv", g.op("Relu", y), weights(g, 8, 16, 1, 1), g.vector(8))
    y = g.op("Flatten", g.op("MaxPool", g.op("Relu", y), kernel_shape=[2, 2], strides=[2, 2]))
    return g.model(g.op("Gemm", y, weights(g, 128, 10)))


def residual():
    """A sum of two branches, and all that the chain has."""
    g = Graph()
    y = g.op("Relu", g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 16, 4, 3, 3), pads=[1] * 4))
    a = g.op("Conv", y, weights(g, 16, 1, 3, 3), group=16, pads=[1] * 4)
    b = g.op("Conv", y, weights(g, 16, 16, 1, 1))
    y = g.op("Relu", g.op("Add", a, b))
    y = g.op("Conv", g.op("Concat", y, a, axis=1), weights(g, 12, 32, 1, 1))
    y = g.op("Flatten", g.op("GlobalAveragePool", g.op("Relu", y)))
    return g.model(g.op("Gemm", y, weights(g, 12, 10)))


def weights(g, *shape):
    """With which every layer gives about what it takes."""
    fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
    return g.const(g.rng.normal(0, math.sqrt(2 / fan_in), shape), np.float32)


MODELS = {"chain": chain, "residual": residual}
DATA = [feeds_of(chain(), seed, batch=4) for seed in range(3)]


def ranges_of(model, data=DATA, method="mse"):
    return ek.Calibrator(model, progress=False).collect_many(data).compute_ranges(method)


def by_name(report):
    return {row.name: row for row in report.rows}


def outputs_of(model, data=DATA):
    session = onnxruntime_session(model)
    return np.concatenate([session.run(None, feeds)[0] for feeds in data]).astype(np.float64)


def db(real, ours):
    return 10 * math.log10((real**2).sum() / ((real - ours) ** 2).sum())


# --- the culprit is found


@pytest.mark.parametrize("what", ["both", "weights"])
@pytest.mark.parametrize(("name", "at"), [(name, at) for name, make in MODELS.items() for at in products(make())])
def test_a_layer_with_spoilt_weights_comes_first_wherever_it_is(name, at, what):
    model = spoilt(MODELS[name](), at)
    assert outputs_of(model) == pytest.approx(outputs_of(MODELS[name]()), rel=1e-3, abs=1e-3)
    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8, what=what)
    assert report.rows[0].name == MODELS[name]().graph.node[at].name
    assert report.rows[0].mark == "sensitive"
    assert report.rows[0].sqnr_db < report.rows[1].sqnr_db - 6


@pytest.mark.parametrize("what", ["both", "activations"])
@pytest.mark.parametrize("at", products(chain()))
def test_a_layer_with_a_spoilt_range_comes_first_wherever_it_is(at, what):
    model, node = chain(), chain().graph.node[at]
    ranges, makers = ranges_of(model), {maker.output[0]: maker for maker in model.graph.node}
    names = [node.input[0]]
    while names[-1] in makers and makers[names[-1]].op_type in ("Flatten", "MaxPool"):  # share one range
        names.append(makers[names[-1]].input[0])
    wide = {name: replace(ranges[name], lo=ranges[name].lo * 60, hi=ranges[name].hi * 60) for name in names}
    spoilt_ranges = ek.Ranges({**ranges, **wide}, ranges.model_hash, ranges.method, ranges.options)
    report = ek.sensitivity(model, spoilt_ranges, DATA, W8A8, what=what)
    assert report.rows[0].name == node.name


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("name", ["resnet8", "kws"])
def test_a_spoilt_layer_of_a_trained_model_comes_first_wherever_it_is(name, test_data):
    source = real(name, test_data)
    for at in products(source.model):
        model = spoilt(source.model, at)
        report = ek.sensitivity(model, ranges_of(model, source.feeds), source.feeds[:2], PLAIN)
        assert report.rows[0].name == source.model.graph.node[at].name


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_of_mobilenet_with_plain_rounding_it_is_the_first_depthwise_layer(test_data):
    """``compare`` sees least of it there: the last layers have the worst rows."""
    model = onnx.load(test_data / "cnn" / "mobilenetv2_1.0_224.onnx")
    feeds = [{"input": photographs(test_data, 4)}]
    report = ek.sensitivity(model, ranges_of(model, feeds), feeds, PLAIN)
    assert report.rows[0].name == "block_dw"
    assert len(report.rows) > 53


def photographs(folder, count):
    """The middle of some pictures, as MobileNet takes them."""
    image = pytest.importorskip("PIL.Image")
    pictures = []
    for path in sorted((folder / "imagenet" / "images").glob("*.jpg"))[:count]:
        with image.open(path) as opened:
            left, top = (opened.width - 224) // 2, (opened.height - 224) // 2
            pictures.append(np.asarray(opened.convert("RGB").crop((left, top, left + 224, top + 224)), np.float32))
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2) / np.float32(127.5) - 1)


# --- the figures are those of what quantize writes


@pytest.mark.parametrize("config", [W8A8, PLAIN, ek.QuantConfig(recipe="w8a8", activations="s8")], ids=repr)
def test_a_row_is_what_quantizing_that_layer_alone_gives(config):
    """Everything else is kept in float32 by rules; onnxruntime runs the file."""
    model = chain()
    ranges, names = ranges_of(model), [model.graph.node[at].name for at in products(model)]
    report = by_name(ek.sensitivity(model, ranges, DATA, config))
    for name in names:
        others = [node.name for node in model.graph.node if node.name != name]
        alone = ek.quantize(model, ranges, replace(config, keep_float=others))
        assert report[name].sqnr_db == pytest.approx(db(outputs_of(model), outputs_of(alone)), abs=0.02)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_all_layers_together_are_what_the_whole_file_gives(make):
    model = make()
    ranges = ranges_of(model)
    report = ek.sensitivity(model, ranges, DATA, W8A8)
    whole = ek.quantize(model, ranges, W8A8)
    assert report.together_db == pytest.approx(db(outputs_of(model), outputs_of(whole)), abs=0.02)
    assert report.together_db < report.rows[0].sqnr_db


def test_weights_and_activations_make_up_both():
    model = residual()
    both, weights_alone, activations_alone = (
        by_name(ek.sensitivity(model, ranges_of(model), DATA, W8A8, what=what))
        for what in ("both", "weights", "activations")
    )
    assert both.keys() == weights_alone.keys() | activations_alone.keys()
    assert "Add" in {row.op for row in activations_alone.values()}
    assert {row.op for row in weights_alone.values()} == {"Conv", "Gemm"}
    for name in weights_alone.keys() & activations_alone.keys():
        parts = weights_alone[name].noise + activations_alone[name].noise
        assert both[name].noise == pytest.approx(parts, rel=0.5)


def test_what_stays_float_has_no_row():
    model = chain()
    kept = model.graph.node[0].name
    report = ek.sensitivity(model, ranges_of(model), DATA, replace(W8A8, keep_float=[kept]))
    assert kept not in by_name(report)


def test_batches_do_not_matter():
    model, joined = residual(), {"x": np.concatenate([feeds["x"] for feeds in DATA])}
    apart = ek.sensitivity(model, ranges_of(model), DATA, W8A8)
    uneven = [{"x": joined["x"][:5]}, {"x": joined["x"][5:]}]
    for data in (joined, uneven):
        report = by_name(ek.sensitivity(model, ranges_of(model), data, W8A8))
        assert report.keys() == by_name(apart).keys()
        for row in apart.rows:
            assert report[row.name].sqnr_db == pytest.approx(row.sqnr_db, abs=0.05)
            assert report[row.name].kl == pytest.approx(row.kl, rel=0.02)


# --- metrics


@pytest.mark.parametrize("metric", ["sqnr", "kl", "mse"])
def test_rows_are_sorted_by_the_metric_worst_first(metric):
    model = residual()
    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8, metric=metric)
    scores = [row.score for row in report.rows]
    assert scores == sorted(scores, reverse=metric != "sqnr")
    assert scores == [
        getattr(row, {"sqnr": "sqnr_db", "kl": "kl", "mse": "relative_mse"}[metric]) for row in report.rows
    ]
    assert report.metric == metric


def test_kl_and_mse_are_their_definitions():
    model = chain()
    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8, layers=["Gemm"])
    others = [node.name for node in model.graph.node if node.op_type != "Gemm"]
    alone = ek.quantize(model, ranges_of(model), replace(W8A8, keep_float=others))
    x, y = outputs_of(model), outputs_of(alone)
    p, q = (np.exp(a) / np.exp(a).sum(axis=1, keepdims=True) for a in (x, y))
    [row] = report.rows
    assert row.kl == pytest.approx((p * np.log(p / q)).sum(axis=1).mean(), rel=0.02)
    assert row.relative_mse == pytest.approx(((x - y) ** 2).mean() / x.var(), rel=0.02)


@pytest.mark.parametrize("sign", [1, -1], ids=["larger is better", "smaller is better"])
def test_a_metric_of_ones_own_sorts_by_its_distance_from_float(sign):
    model = spoilt(residual(), 2)

    def agreement(floats, rounded):
        [a], [b] = floats.values(), rounded.values()
        assert a.shape == b.shape == (12, 10)
        return sign * np.exp(-np.abs(a - b).mean())

    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8, metric=agreement)
    assert report.rows[0].name == residual().graph.node[2].name
    distances = [abs(row.score - sign) for row in report.rows]
    assert distances == sorted(distances, reverse=True)
    assert report.metric == "agreement"
    assert f"{report.rows[0].score:.6g}" in str(report)


def test_of_several_outputs_the_worst_one_counts():
    g = Graph()
    y = g.op("Relu", g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 16, 4, 3, 3)))
    first, second = (g.op("Conv", y, weights(g, 4, 16, 1, 1)) for _ in range(2))
    model = g.model(first, second)
    report = by_name(ek.sensitivity(model, ranges_of(model), DATA, W8A8))
    assert all(math.isfinite(report[f"node_{name}"].sqnr_db) for name in (first, second))


def test_classes_that_add_up_to_one_are_no_logits():
    g = Graph()
    y = g.op("Flatten", g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 4, 4, 3, 3)))
    logits = g.op("Gemm", y, weights(g, 144, 10))
    with_softmax, without = g.model(g.op("Softmax", logits, axis=1)), g.model(logits)
    first, second = (
        ek.sensitivity(m, ranges_of(m), DATA, W8A8, what="weights", metric="kl") for m in (with_softmax, without)
    )
    assert [row.kl for row in first.rows] == pytest.approx([row.kl for row in second.rows], rel=1e-2)


# --- other kinds of layers


DYNAMIC = ek.QuantConfig(recipe="w8a8-dynamic")


def test_rows_that_get_their_scales_as_they_come_are_those_of_our_kernels():
    """Of each layer alone, and of all together: the program that is compiled gives the figure."""
    g = Graph()
    y = g.op("MatMul", g.input("x", (3, 6, 32)), weights(g, 32, 48))
    y = g.op("MatMul", g.op("Tanh", y), weights(g, 48, 40))
    model = g.model(g.op("MatMul", g.op("Tanh", y), weights(g, 40, 8)))
    data = [feeds_of(model, seed) for seed in range(2)]
    report = ek.sensitivity(model, None, data, DYNAMIC)
    by_weights = by_name(ek.sensitivity(model, None, data, DYNAMIC, what="weights"))
    names = [node.name for node in model.graph.node]
    kept = {name: [other for other in names if other != name] for name in by_weights} | {"": []}
    for name, others in kept.items():
        qdq = ek.quantize(model, None, replace(DYNAMIC, keep_float=others))
        session = ek.InferenceSession(ek.compile(qdq, allow_host=False))
        ours = np.concatenate([session.run(None, feeds)[0] for feeds in data]).astype(np.float64)
        figure = by_name(report)[name].sqnr_db if name else report.together_db
        assert figure == pytest.approx(db(outputs_of(model, data), ours), abs=0.02)
        assert not name or figure < by_weights[name].sqnr_db - 0.5
    with pytest.raises(ArgumentValueError, match="what='activations' must leave something to round"):
        ek.sensitivity(model, None, data, DYNAMIC, what="activations")


def test_two_directions_of_a_recurrent_layer():
    g = Graph()
    directions, hidden, size = 2, 8, 6
    w = g.const(g.rng.normal(0, 0.4, (directions, 4 * hidden, size)), np.float32)
    r = g.const(g.rng.normal(0, 0.4, (directions, 4 * hidden, hidden)), np.float32)
    x = g.input("x", (5, 2, size))
    y = g.op("LSTM", x, w, r, direction="bidirectional", hidden_size=hidden)
    model = g.model(g.op("MatMul", g.op("Reshape", y, g.const([5, 2, 16], np.int64)), weights(g, 16, 8)))
    report = ek.sensitivity(model, None, feeds_of(model), DYNAMIC)
    assert {row.op for row in report.rows} == {"LSTM", "MatMul"}


def test_16_bits_are_rounded_in_16_bits():
    model = chain()
    wide, narrow = (
        ek.sensitivity(model, ranges_of(model, method="max"), DATA, ek.QuantConfig(recipe=recipe), what="activations")
        for recipe in ("w8a16", "w8a8")
    )
    assert wide.rows[0].sqnr_db > narrow.rows[0].sqnr_db + 30


def test_a_body_reads_what_stands_for_a_float_around_it():
    g = Graph()
    y = g.op("Relu", g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 8, 4, 3, 3)))
    z = g.op("Conv", y, weights(g, 8, 8, 1, 1))
    branches = {
        key: helper.make_graph(
            [helper.make_node(op, [y], [f"in_{key}"])], key, [], [helper.make_tensor_value_info(f"in_{key}", 1, None)]
        )
        for key, op in (("then_branch", "Abs"), ("else_branch", "Neg"))
    }
    either = g.op("If", g.const(True), **branches)
    model = g.model(g.op("Conv", z, weights(g, 4, 8, 1, 1)), either)
    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8)
    assert {row.op for row in report.rows} >= {"Conv"}


def test_integers_cross_the_borders_of_layers():
    """A shape is computed before one layer and read behind another."""
    g = Graph()
    x = g.input("x", ("N", 4, 8, 8))
    shape = g.op(
        "Concat",
        g.op("Slice", g.op("Shape", x), *(g.const([v], np.int64) for v in (0, 1))),
        g.const([-1], np.int64),
        axis=0,
    )
    y = g.op("Relu", g.op("Conv", x, weights(g, 8, 4, 3, 3)))
    y = g.op("Reshape", g.op("Conv", y, weights(g, 4, 8, 1, 1)), shape)
    model = g.model(g.op("MatMul", y, weights(g, 144, 10)))
    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8)
    assert [row.op for row in report.rows].count("Conv") == 2


def test_a_constant_may_be_an_output():
    g = Graph()
    y = g.op("Relu", g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 8, 4, 3, 3)))
    model = g.model(g.op("Conv", y, weights(g, 4, 8, 1, 1)), g.op("Constant", value_float=2.0))
    report = ek.sensitivity(model, ranges_of(model), DATA, W8A8)
    assert len(report.rows) == 2
    assert all(20 < row.sqnr_db < 80 for row in report.rows)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"what": "all"}, ArgumentValueError, r"sensitivity: what must be one of \['both', 'weights', 'activations'\]"),
        ({"metric": "psnr"}, ArgumentValueError, "sensitivity: metric must be one of .* or a function, got 'psnr'"),
        ({"metric": lambda a, b: math.nan}, ArgumentValueError, "got NaN for the float model"),
        (
            {"metric": lambda a, b: "good"},
            ArgumentTypeError,
            "what metric returns for the float model must be a number",
        ),
        ({"layers": "Conv"}, ArgumentTypeError, "sensitivity: layers must be a list of rules, got 'Conv'"),
        (
            {"layers": ["/head/*"]},
            ArgumentValueError,
            r"each rule of layers must name a layer, and '/head/\*' names none",
        ),
        ({"progress": 1.5}, ArgumentTypeError, "progress"),
        ({"data": []}, ArgumentValueError, "sensitivity: data is empty; give at least one feed"),
        ({"data": DATA[0]["x"]}, ArgumentTypeError, "data must be a dict of arrays by input name"),
        ({"data": [DATA[0]["x"]]}, ArgumentTypeError, "each of data must be a dict of arrays by input name"),
        ({"data": {"y": DATA[0]["x"]}}, ArgumentValueError, r"each of data must have the inputs \['x'\], got \['y'\]"),
        ({"data": {"x": np.zeros((1, 3, 8, 8), np.float32)}}, ArgumentValueError, r"feeds\['x'\] has shape"),
        ({"config": {"recipe": "w8a8"}}, ArgumentTypeError, "sensitivity: config must be a QuantConfig, got dict"),
        ({"ranges": {}}, ArgumentTypeError, "sensitivity: ranges must be Ranges, got dict"),
        ({"ranges": ek.Ranges({}, "0" * 64, "max")}, QuantizationError, "sensitivity: ranges are of another model"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, message):
    model = chain()
    given = {"ranges": ranges_of(model), "data": DATA, "config": W8A8} | arguments
    with pytest.raises(error, match=message):
        ek.sensitivity(model, given.pop("ranges"), given.pop("data"), given.pop("config"), **given)


def test_a_metric_that_fails_for_one_layer_names_it():
    model, calls = chain(), []

    def metric(floats, rounded):
        calls.append(1)
        return math.nan if len(calls) == 3 else 1.0

    second = model.graph.node[products(model)[1]].name
    with pytest.raises(ArgumentValueError, match=f"got NaN for layer '{second}'"):
        ek.sensitivity(model, ranges_of(model), DATA, W8A8, what="weights", metric=metric)


def test_kl_wants_classes():
    g = Graph()
    y = g.op("Flatten", g.op("Conv", g.input("x", ("N", 4, 8, 8)), weights(g, 4, 4, 3, 3)))
    model = g.model(g.op("Gemm", y, weights(g, 144, 1)))
    with pytest.raises(ArgumentValueError, match="metric='kl' needs an output with two classes or more"):
        ek.sensitivity(model, ranges_of(model), DATA, W8A8, metric="kl")
    assert ek.sensitivity(model, ranges_of(model), DATA, W8A8).rows[0].kl is None


def test_a_range_that_is_missing_is_named():
    model = chain()
    ranges = ranges_of(model)
    some = ek.Ranges({name: r for name, r in ranges.items() if name != "x"}, ranges.model_hash, ranges.method)
    with pytest.raises(QuantizationError, match="sensitivity: ranges lack tensor 'x'"):
        ek.sensitivity(model, some, DATA, W8A8)


# --- the report


@pytest.fixture(scope="module")
def report():
    model = residual()
    return ek.sensitivity(model, ranges_of(model), DATA, W8A8)


def test_the_report_prints_a_table(report):
    text = str(report)
    assert all(row.name in text and f"{row.sqnr_db:.2f}" in text for row in report.rows)
    assert f"all together {report.together_db:.2f} dB; 3 feeds" in text
    assert report.rows[0].name in repr(report)
    assert len(set(map(len, report.table().splitlines()[1:]))) <= 2  # columns stand below each other, but for the mark


def test_the_report_goes_into_json_and_csv(report, tmp_path):
    saved = json.loads(report.to_json(tmp_path / "s.json"))
    assert json.loads((tmp_path / "s.json").read_text()) == saved == report.to_dict()
    assert [row["name"] for row in saved["rows"]] == [row.name for row in report.rows]
    assert saved["together_db"] == report.together_db
    report.to_csv(tmp_path / "s.csv")
    read = list(csv.DictReader(io.StringIO((tmp_path / "s.csv").read_text())))
    assert [float(row["sqnr_db"]) for row in read] == [row.sqnr_db for row in report.rows]


def test_what_is_exact_has_no_figure_in_json(report):
    exact = replace(report, rows=(replace(report.rows[0], sqnr_db=math.inf, score=math.inf),))
    [row] = json.loads(exact.to_json())["rows"]
    assert row["sqnr_db"] is None
    assert exact.to_csv().splitlines()[1].split(",")[2] == ""


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_report_is_drawn(report, tmp_path, ending):
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / f"s.{ending}")
    assert (tmp_path / f"s.{ending}").read_bytes()[:5] in (b"\x89PNG\r", b"<?xml")
    with pytest.raises(ArgumentValueError, match=r"Sensitivity\.plot: path must end in one of"):
        report.plot(tmp_path / "s.docx")
    assert not (tmp_path / "s.docx").exists()


def test_without_matplotlib_it_says_what_to_install(report, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(EdgekernError, match=r"Sensitivity\.plot: it needs matplotlib; pip install matplotlib"):
        report.plot(tmp_path / "s.png")
