"""compare: float against integers as they really ran."""

import fnmatch
import json
import math
from dataclasses import replace

import numpy as np
import onnx
import pytest

import edgekern as ek
from edgekern.analysis import comparison, error_report
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning
from spoilt_models import products, spoilt

from graphs import Graph, feeds_of, onnxruntime_session


def float_model(relu: bool = True):
    g = Graph()
    y = g.op("Conv", g.input("x", (1, 4, 8, 8)), g.const(g.rng.normal(0, 0.2, (16, 4, 3, 3)), np.float32))
    y = g.op("Relu", y) if relu else y
    y = g.op("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
    y = g.op("Conv", y, g.const(g.rng.normal(0, 0.1, (8, 16, 3, 3)), np.float32))
    return g.model(g.op("Gemm", g.op("Flatten", y), g.const(g.rng.normal(0, 0.1, (8, 10)), np.float32)))


@pytest.fixture(scope="module")
def data():
    return [feeds_of(float_model(), seed) for seed in range(4)]


@pytest.fixture(scope="module")
def report_and_program(data):
    calibrator = ek.Calibrator(float_model(), progress=False)
    calibrator.collect_many(data)
    program = ek.compile(ek.quantize(float_model(), calibrator.compute_ranges(method="max")), allow_host=False)
    return ek.compare(float_model(), program, data), program


def test_report_has_a_row_a_layer_worst_first(report_and_program):
    report, program = report_and_program
    figures = [row.sqnr_db for row in report.rows]
    assert figures == sorted(figures)
    assert {row.name for row in report.rows} == {step.name for step in program.steps}
    path_of = dict(zip([step.name for step in program.steps], program.paths(), strict=True))
    assert {row.name: row.path for row in report.rows} == path_of
    assert all(20 < row.sqnr_db < 80 and 0.99 < row.cosine <= 1 for row in report.rows)
    assert report.feeds == 4


def test_figures_of_the_result_are_those_of_the_session(report_and_program, data):
    """The last layer is the output, so its row can be computed from outside."""
    report, program = report_and_program
    session, reference = ek.InferenceSession(program), onnxruntime_session(float_model())
    real = np.concatenate([reference.run(None, feeds)[0] for feeds in data]).astype(np.float64)
    ours = np.concatenate([session.run(None, feeds)[0] for feeds in data]).astype(np.float64)
    row = next(row for row in report.rows if row.tensor == session.get_outputs()[0].name)
    assert row.sqnr_db == pytest.approx(10 * math.log10((real**2).sum() / ((real - ours) ** 2).sum()), abs=1e-3)
    assert row.max_error == pytest.approx(np.abs(real - ours).max(), rel=1e-4)
    cosine = (real * ours).sum() / np.sqrt((real**2).sum() * (ours**2).sum())
    assert row.cosine == pytest.approx(cosine, abs=1e-6)


def test_report_prints_a_table(report_and_program):
    report, _ = report_and_program
    text = str(report)
    for row in report.rows:
        assert row.name in text
        assert f"{row.sqnr_db:.2f}" in text
    assert report.worst(1) == report.rows[:1]
    assert "4 feeds" in text


def test_one_feed_is_taken_as_it_is(report_and_program, data):
    _, program = report_and_program
    assert ek.compare(float_model(), program, data[0]).feeds == 1


def test_dropped_relu_is_compared_behind_the_relu():
    """onnxruntime's quantizer drops a Relu that the range implies, and keeps the name of what was before it."""
    model = float_model()
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    qdq = onnx.ModelProto()
    qdq.CopyFrom(model)
    parameters = onnx.numpy_helper.from_array(np.float32(0.02), "s"), onnx.numpy_helper.from_array(np.uint8(0), "z")
    qdq.graph.initializer.extend(parameters)
    weights = next(t for t in qdq.graph.initializer if t.dims[:2] == [16, 4])
    codes = np.rint(onnx.numpy_helper.to_array(weights) / 0.01).clip(-127, 127).astype(np.int8)
    weights.CopyFrom(onnx.numpy_helper.from_array(codes, f"{weights.name}_q"))
    qdq.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.01), "ws"))
    conv, nodes = qdq.graph.node[0], list(qdq.graph.node)
    make = onnx.helper.make_node
    front = [
        make("QuantizeLinear", ["x", "s2", "z2"], ["xq"]),
        make("DequantizeLinear", ["xq", "s2", "z2"], ["xd"]),
        make("DequantizeLinear", [f"{conv.input[1]}_q", "ws"], ["wd"]),
    ]
    qdq.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.05), "s2"))
    qdq.graph.initializer.append(onnx.numpy_helper.from_array(np.uint8(128), "z2"))
    conv.input[:] = ["xd", "wd"]
    back = [
        make("QuantizeLinear", [conv.output[0], "s", "z"], ["yq"]),
        make("DequantizeLinear", ["yq", "s", "z"], [relu.output[0] + "_new"]),
        make("MaxPool", [relu.output[0] + "_new"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
    ]
    del qdq.graph.node[:]
    qdq.graph.node.extend([*front, nodes[0], *back])
    qdq.graph.output[0].name = "pooled"
    qdq.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.warns(EdgekernWarning, match="does not say which float model"):
        report = ek.compare(model, ek.compile(qdq, allow_host=False), feeds_of(model))
    row = next(row for row in report.rows if row.op.startswith("Conv"))
    assert row.tensor == relu.output[0]
    assert row.sqnr_db > 20


def test_exact_layers_have_infinite_sqnr():
    g = Graph()
    q = g.qdq(g.input("x", (2, 3)), 1.0, 0)
    program = ek.compile(g.model(q))
    with pytest.warns(EdgekernWarning, match="does not say which float model"):
        report = ek.compare(g.model(q), program, {"x": np.full((2, 3), 7, np.float32)})
    assert [row.sqnr_db for row in report.rows] == [math.inf]
    assert [row.cosine for row in report.rows] == pytest.approx([1.0])


@pytest.mark.usefixtures("no_float_kernels")
@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_a_program_of_host_steps_alone_is_told_from_another_model():
    model = float_model()
    with pytest.raises(ArgumentValueError, match="compare: no layer of program runs on a kernel of edgekern's"):
        ek.compare(model, ek.compile(model), feeds_of(model))


def test_bad_arguments_are_refused(report_and_program, data):
    _, program = report_and_program
    with pytest.raises(ArgumentValueError, match="compare: data is empty"):
        ek.compare(float_model(), program, [])
    with pytest.raises(ArgumentTypeError, match="compare: program must be a Program, got str"):
        ek.compare(float_model(), "model.ekm", data)


def test_a_strided_feed_is_copied_once_and_reported(report_and_program, data):
    _, program = report_and_program
    strided = {name: np.asfortranarray(array) for name, array in data[0].items()}
    with pytest.warns(
        EdgekernWarning, match="compare: input 'x' is copied, 1024 bytes: it is not C-contiguous"
    ) as seen:
        report = ek.compare(float_model(), program, strided)
    assert len(seen) == 1
    assert report == ek.compare(float_model(), program, data[0])


# --- which model the program is of


def other_weights():
    """The same graph, layer by layer, with other numbers."""
    model = float_model()
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array[..., ::-1].copy(), tensor.name))
    return model


def test_another_model_is_refused_before_anything_runs(report_and_program, data, tmp_path):
    """It gave a table with layers of -0.01 dB."""
    _, program = report_and_program
    program.save(tmp_path / "p.ekm")
    for made in (program, ek.Program.load(tmp_path / "p.ekm")):
        with pytest.raises(ArgumentValueError, match=r"compare: program was made of another model \(hash [0-9a-f]{12}"):
            ek.compare(other_weights(), made, data)


def test_the_same_model_is_known_however_it_is_given(report_and_program, data, tmp_path):
    report, program = report_and_program
    model = float_model()
    model.producer_name, model.doc_string = "another", "with a comment"
    onnx.save(model, tmp_path / "m.onnx")
    assert ek.compare(tmp_path / "m.onnx", program, data) == report


def test_the_qdq_model_itself_may_be_compared(data):
    calibrator = ek.Calibrator(float_model(), progress=False).collect_many(data)
    qdq = ek.quantize(float_model(), calibrator.compute_ranges())
    assert min(row.sqnr_db for row in ek.compare(qdq, ek.compile(qdq), data).rows) > 40


def test_another_qdq_model_of_the_same_float_model_is_refused(data):
    """The two passed for one another: their metadata was the same."""
    first, second = (
        ek.quantize(float_model(), ek.Calibrator(float_model(), progress=False).collect(feeds).compute_ranges())
        for feeds in data[:2]
    )
    assert [entry.key for entry in first.metadata_props] == ["edgekern.quantization"]
    ek.compare(first, ek.compile(first), data)
    with pytest.raises(ArgumentValueError, match="compare: program was made of another model"):
        ek.compare(second, ek.compile(first), data)


@pytest.mark.parametrize("told", ["", "{}", "[]", "no JSON", '{"model_hash": 3}', "[" * 2000])
def test_a_program_that_does_not_say_its_model_is_compared_with_a_warning(told, data, monkeypatch):
    """Those of other tools, and files that an older edgekern wrote."""
    calibrator = ek.Calibrator(float_model(), progress=False).collect_many(data)
    qdq = ek.quantize(float_model(), calibrator.compute_ranges())
    [entry] = [entry for entry in qdq.metadata_props if entry.key == "edgekern.quantization"]
    entry.value = told
    program = ek.compile(qdq)
    assert program.manifest.float_model_hash is None
    monkeypatch.setattr(comparison, "model_hash", None)  # it would read every weight for nothing
    with pytest.warns(EdgekernWarning, match=r"program does not say which float model .*edgekern\.quantize writes it"):
        assert ek.compare(float_model(), program, data).rows
    g = Graph()
    other = g.model(g.op("Tanh", g.op("Sinh", g.input("other", (2, 3)))))
    with (
        pytest.warns(EdgekernWarning, match="does not say which"),
        pytest.raises(ArgumentValueError, match="no tensor in common"),
    ):
        ek.compare(other, program, data)


# --- the error that a layer adds itself

PLAIN = ek.QuantConfig(recipe="w8a8", rounding="nearest", bias_correction=False)


def trained(seed=3):
    """Layers that give about what they take."""
    g = Graph(seed)
    y = g.op("Conv", g.input("x", (1, 4, 8, 8)), g.const(g.rng.normal(0, 0.3, (16, 4, 3, 3)), np.float32))
    y = g.op("Conv", g.op("Relu", y), g.const(g.rng.normal(0, 0.25, (12, 16, 1, 1)), np.float32))
    y = g.op("Relu", g.op("Conv", g.op("Relu", y), g.const(g.rng.normal(0, 0.2, (8, 12, 3, 3)), np.float32)))
    return g.model(g.op("Gemm", g.op("Flatten", y), g.const(g.rng.normal(0, 0.1, (128, 10)), np.float32)))


def compared(model, data, ranges=None, config=PLAIN):
    ranges = ranges or ek.Calibrator(model, progress=False).collect_many(data).compute_ranges(method="max")
    return ek.compare(model, ek.compile(ek.quantize(model, ranges, config), allow_host=False), data)


@pytest.fixture(scope="module")
def images():
    return [feeds_of(trained(), seed) for seed in range(4)]


@pytest.mark.parametrize("place", range(4))
def test_the_layer_that_is_spoilt_has_the_error_and_those_behind_have_none_of_their_own(place, images):
    at = products(trained())[place]
    model = spoilt(trained(), at)
    names = [node.name for node in trained().graph.node if node.op_type in ("Conv", "Gemm")]
    report = compared(model, images)
    own = {row.name: row for row in report.by_own_error().rows}
    assert next(iter(own)) == names[place]
    assert own[names[place]].mark == "sensitive"
    assert own[names[place]].recommendation == f"keep in float32: keep_float=['{names[place]}']"
    for name in names[place + 1 :]:  # all are bad, by what comes in
        assert own[name].sqnr_db < 20 < 30 < own[name].own_db
        assert own[name].recommendation == "fine: the error comes with its inputs"
    for name in names[:place]:
        assert own[name].sqnr_db > 30


def test_what_is_recommended_mends_it(images):
    model = spoilt(trained(), products(trained())[1])
    [worst, *_] = compared(model, images).by_own_error().rows
    kept = ek.QuantConfig(
        recipe="w8a8", rounding="nearest", bias_correction=False, keep_float=[worst.recommendation.split("'")[1]]
    )
    assert min(row.own_db for row in compared(model, images, config=kept).rows) > 30


def test_of_the_first_layer_all_error_is_its_own(images):
    rows = {row.op.split("+")[0]: row for row in compared(trained(), images).rows}
    quantize = rows["QuantizeLinear"]
    assert quantize.own_db == quantize.sqnr_db
    assert quantize.own_cosine == quantize.cosine
    assert quantize.own_max_error == quantize.max_error


def test_the_own_error_is_that_of_a_file_in_which_all_before_is_float(images):
    """The last layer alone in 8 bits: what reaches it is exact."""
    model = trained()
    ranges = ek.Calibrator(model, progress=False).collect_many(images).compute_ranges(method="max")
    last = model.graph.node[-1].name
    others = [node.name for node in model.graph.node if node.name != last]
    alone = ek.quantize(
        model, ranges, ek.QuantConfig(recipe="w8a8", rounding="nearest", bias_correction=False, keep_float=others)
    )
    session, reference = onnxruntime_session(alone), onnxruntime_session(model)
    real, ours = (
        np.concatenate([s.run(None, feeds)[0] for feeds in images]).astype(np.float64) for s in (reference, session)
    )
    row = next(row for row in compared(model, images, ranges).rows if row.name == last)
    assert row.own_db == pytest.approx(10 * math.log10((real**2).sum() / ((real - ours) ** 2).sum()), abs=0.05)
    assert row.own_db > row.sqnr_db


def test_mse_is_the_mean_square(images):
    report = compared(trained(), images)
    real = np.concatenate([onnxruntime_session(trained()).run(None, feeds)[0] for feeds in images]).astype(np.float64)
    row = next(row for row in report.rows if row.op == "Gemm")
    assert row.mse == pytest.approx((real**2).mean() / 10 ** (row.sqnr_db / 10), rel=1e-4)


def scaled(ranges, name, factor):
    other = replace(ranges[name], lo=ranges[name].lo * factor, hi=ranges[name].hi * factor)
    return ek.Ranges({**ranges, name: other}, ranges.model_hash, ranges.method, ranges.options)


@pytest.mark.parametrize("factor", [0.3, 0.6])
def test_what_a_range_cuts_off_is_counted_and_a_wider_one_is_recommended(factor, images):
    model = trained()
    ranges = ek.Calibrator(model, progress=False).collect_many(images).compute_ranges(method="max")
    name = next(node for node in model.graph.node if node.op_type == "Relu").output[0]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.append(onnx.ValueInfoProto(name=name))
    values = np.concatenate([onnxruntime_session(tapped).run([name], feeds)[0] for feeds in images])
    hi = ranges[name].hi * factor
    row = next(row for row in compared(model, images, scaled(ranges, name, factor)).rows if row.tensor == name)
    assert row.clipped == pytest.approx((values > hi + hi / 255 / 2).mean(), abs=1e-4)
    assert row.clipped > 1e-3
    assert row.mark == "sensitive"
    assert row.recommendation.startswith(f"wider range: clipped {row.clipped:.2%}, ")


def test_16_bits_are_recommended_where_the_steps_are_too_coarse_and_mend_it(images):
    model = trained()
    ranges = ek.Calibrator(model, progress=False).collect_many(images).compute_ranges(method="max")
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    wide = scaled(ranges, relu.output[0], 40)
    row = next(row for row in compared(model, images, wide).rows if row.tensor == relu.output[0])
    assert row.clipped == 0
    assert row.mark == "sensitive"
    rule = f"'{relu.name}': 'w8a16'"
    assert row.recommendation.startswith(f"w8a16: overrides={{{rule}}}, the steps of its result are ")
    mended = ek.QuantConfig(recipe="w8a8", rounding="nearest", bias_correction=False, overrides={relu.name: "w8a16"})
    program = ek.compile(ek.quantize(model, wide, mended))
    after = {row.tensor: row for row in ek.compare(model, program, images).rows}
    assert after[relu.output[0]].own_db > row.own_db + 15


def test_an_input_whose_steps_are_too_coarse_is_mended_by_its_reader(images):
    model = trained()
    ranges = ek.Calibrator(model, progress=False).collect_many(images).compute_ranges(method="max")
    row = next(row for row in compared(model, images, scaled(ranges, "x", 40)).rows if row.tensor == "x")
    assert row.recommendation.startswith(f"w8a16: overrides={{'{model.graph.node[0].name}': 'w8a16'}}, ")


def test_a_rule_names_the_node_and_no_other():
    assert error_report.rule_for("a[1]/b*?") == "a[[]1]/b[*][?]"
    assert fnmatch.fnmatchcase("a[1]/b*?", error_report.rule_for("a[1]/b*?"))


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_own_errors_of_programs_with_host_steps_and_branches(images):
    g = Graph()
    y = g.op("Relu", g.op("Conv", g.input("x", (1, 4, 8, 8)), g.const(g.rng.normal(0, 0.3, (8, 4, 3, 3)), np.float32)))
    a = g.op("Conv", y, g.const(g.rng.normal(0, 0.3, (8, 8, 1, 1)), np.float32))
    b = g.op("Conv", y, g.const(g.rng.normal(0, 0.3, (8, 8, 1, 1)), np.float32))
    y = g.op("Concat", g.op("Add", a, b), g.op("MaxPool", y, kernel_shape=[1, 1]), axis=1)
    y = g.op("Sinh", g.op("Mul", y, g.const(0.1, np.float32)))
    model = g.model(g.op("Conv", y, g.const(g.rng.normal(0, 0.2, (4, 16, 3, 3)), np.float32)))
    ranges = ek.Calibrator(model, progress=False).collect_many(images).compute_ranges()
    report = ek.compare(model, ek.compile(ek.quantize(model, ranges)), images)
    assert all(row.own_db > 30 for row in report.rows)
    assert all(row.own_db > row.sqnr_db - 3 for row in report.rows)  # errors may cancel, a little


def test_the_report_goes_into_json_and_csv(report_and_program, tmp_path):
    report, _ = report_and_program
    saved = json.loads(report.to_json())
    assert saved["feeds"] == 4
    assert [row["own_db"] for row in saved["rows"]] == [row.own_db for row in report.rows]
    assert {row["mark"] for row in saved["rows"]} <= {"", "watch", "sensitive"}
    assert len(report.to_csv(tmp_path / "r.csv").splitlines()) == 1 + len(report.rows)
    assert report.rows[0].name in repr(report)
