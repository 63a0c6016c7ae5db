"""What the toolkit takes of memory: weights are read once and kept once, activations live a piece at a time.

Peaks are measured in processes of their own, on a model of 34 MB; ``python -m bench memory`` does it on models of
200 MB, and with ``--large`` on one of 2.5 GB, past what a protobuf message can hold.
"""

import hashlib
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import cli  # noqa: E402
from edgekern.calibration import Calibrator, load_model, model_hash, observed_tensors, runner  # noqa: E402
from edgekern.errors import ArgumentValueError, CalibrationError, CompileError, EdgekernWarning  # noqa: E402
from edgekern.graph import skeleton  # noqa: E402
from edgekern.graph.model import open_model  # noqa: E402

LAYERS, WIDTH, ROWS = 8, 1024, 64
MODEL_MB = 4 * LAYERS * WIDTH * WIDTH / 1e6
ACTIVATIONS_MB = 4 * ROWS * WIDTH * (2 * LAYERS + 1) / 1e6
# What does not grow with the model: onnxruntime's session, threads, Python objects, the allocator's remains.
FIXED_MB = 24


def _mlp(layers: int = 4, width: int = 32, rows: int | str = "n", opset: int = 17) -> onnx.ModelProto:
    rng, nodes, weights, x = np.random.default_rng(0), [], [], "x"
    for i in range(layers):
        weights += [
            numpy_helper.from_array((rng.standard_normal((width, width)) / width**0.5).astype(np.float32), f"w{i}"),
            numpy_helper.from_array(rng.standard_normal(width).astype(np.float32), f"b{i}"),
        ]
        nodes.append(helper.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"p{i}"]))
        nodes.append(helper.make_node("Relu", [f"p{i}"], [f"r{i}"]))
        x = f"r{i}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [rows, width])],
        weights,
    )
    return _model(graph, opset)


def _model(graph: onnx.GraphProto, opset: int = 17) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _feed(rows: int = 5, width: int = 32) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(1).standard_normal((rows, width)).astype(np.float32)}


def _saved(model: onnx.ModelProto, folder: Path, **options: object) -> Path:
    path = folder / "model.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, **options)
    return path


def _with_external_data(model: onnx.ModelProto, folder: Path) -> Path:
    return _saved(model, folder, save_as_external_data=True, location="weights.bin", size_threshold=0)


# --- growth


CHILD = """
import json, re, sys, warnings
from pathlib import Path
import numpy as np, onnx, onnx_ir, onnxruntime
import edgekern as ek
from edgekern import calibration, compiler, quantization
warnings.simplefilter("ignore", ek.errors.EdgekernWarning)
folder = Path(sys.argv[1])
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e3
before = peak()
{body}
print(peak() - before)
{after}
"""


def _growth_mb(folder: Path, body: str, after: str = "") -> float:
    child = subprocess.run(
        [sys.executable, "-c", CHILD.format(body=textwrap.dedent(body), after=after), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EDGEKERN_NUM_THREADS": "2"},
    )
    assert child.returncode == 0, child.stderr
    return float(child.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    _saved(_mlp(LAYERS, WIDTH), folder)
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_no_step_grows_past_the_model_a_copy_and_a_batch(workshop):
    calibrate = f"""
        calibrator = ek.Calibrator(folder / "model.onnx")
        x = np.random.default_rng(0).standard_normal(({ROWS}, {WIDTH})).astype(np.float32)
        calibrator.collect({{"x": x}}).compute_ranges(method="max").save(folder / "ranges.json")
        """
    quantize = 'qdq = ek.quantize(folder / "model.onnx", calibration.Ranges.load(folder / "ranges.json"))'
    growth = {
        "calibrate": _growth_mb(workshop, calibrate),
        "quantize": _growth_mb(workshop, quantize, 'onnx.save(qdq, folder / "qdq.onnx")'),
        "compile": _growth_mb(workshop, 'program = ek.compile(folder / "qdq.onnx")'),
        "compile float": _growth_mb(workshop, 'program = ek.compile(folder / "model.onnx")'),
    }
    allowed = dict.fromkeys(growth, 2 * MODEL_MB + FIXED_MB)
    allowed["calibrate"] += ACTIVATIONS_MB
    allowed["compile"] = 2 * MODEL_MB / 4 + FIXED_MB  # it is given int8
    assert {step: mb for step, mb in growth.items() if mb > allowed[step]} == {}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_long_feed_is_let_go_layer_by_layer(tmp_path):
    layers, samples = 24, 2_000_000
    nodes = [helper.make_node("Neg", [f"t{i}"], [f"t{i + 1}"]) for i in range(layers)]
    x, y = (helper.make_tensor_value_info(f"t{i}", TensorProto.FLOAT, [1, 4, "n"]) for i in (0, layers))
    _saved(_model(helper.make_graph(nodes, "long", [x], [y])), tmp_path)
    body = f'ek.Calibrator(folder / "model.onnx").collect({{"t0": np.ones((1, 4, {samples}), np.float32)}})'
    activations_mb = 4 * 4 * samples * (layers + 1) / 1e6
    assert activations_mb > 700
    assert _growth_mb(tmp_path, body) < activations_mb / 2


def test_a_model_past_two_gib_goes_through_every_step(tmp_path):
    """The weights are a hole in a file: what serialises them fails, and what reads them reads zeros."""
    rows, width = 2_200_000, 256
    table = TensorProto(name="table", dims=[rows, width], data_type=TensorProto.FLOAT)
    table.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "hole.bin"), ("offset", "0"), ("length", str(4 * rows * width))):
        table.external_data.add(key=key, value=value)
    with (tmp_path / "hole.bin").open("wb") as file:
        file.truncate(4 * rows * width)
    model = _mlp(1, width)
    model.graph.initializer.append(table)  # nobody reads it, and every message that holds it is too large
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    opened = open_model(path, function="test")
    assert sum(weight.nbytes for weight in opened.weights.values()) > 2**31
    assert opened.proto.ByteSize() < 1 << 16
    assert observed_tensors(opened) == observed_tensors(_mlp(1, width))
    assert ek.compile(path, allow_host=False) == ek.compile(_mlp(1, width))


# --- the same model, wherever its weights lie


@pytest.mark.usefixtures("no_float_kernels")
@pytest.mark.parametrize("opset", [11, 17])
def test_weights_beside_the_file_give_the_same_as_weights_in_it(tmp_path, opset):
    model = _mlp(opset=opset)
    for folder in ("in", "beside", "qdq"):
        (tmp_path / folder).mkdir()
    sources = [
        model,
        model.SerializeToString(),
        _saved(model, tmp_path / "in"),
        _with_external_data(model, tmp_path / "beside"),
        onnx.load(tmp_path / "beside" / "model.onnx"),
    ]
    ranges = [Calibrator(source, progress=False).collect(_feed()).compute_ranges() for source in sources]
    assert all(one == ranges[0] for one in ranges)
    static = ek.QuantConfig(recipe="w8a8")
    qdqs = [ek.quantize(source, ranges[0], static).SerializeToString(deterministic=True) for source in sources]
    assert len(set(qdqs)) == 1
    qdq = onnx.load_from_string(qdqs[0])
    beside = _with_external_data(qdq, tmp_path / "qdq")
    assert ek.compile(beside) == ek.compile(qdq) == ek.compile(qdqs[0])
    with pytest.warns(EdgekernWarning, match="run on the host"):
        programs = [ek.compile(source, batch=5) for source in sources]
    assert all(one == programs[0] for one in programs)
    expected = onnxruntime.InferenceSession(sources[1], providers=["CPUExecutionProvider"]).run(None, _feed())
    np.testing.assert_allclose(
        ek.InferenceSession(programs[0]).run(None, _feed())[0], expected[0], rtol=1e-4, atol=1e-5
    )


def test_the_hash_is_that_of_the_messages_with_their_data():
    """As it was before weights stood aside: ranges that are saved stay good."""
    model = load_model(_mlp())
    digest, graph = hashlib.sha256(), model.graph
    parts = (model.opset_import, graph.input, graph.output, graph.node, graph.initializer, (), ())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        for message in part:
            encoded = message.SerializeToString(deterministic=True)
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
    assert model_hash(_mlp()) == digest.hexdigest()


def test_a_loaded_model_has_all_its_initializers_in_their_order(tmp_path):
    model = _mlp()
    loaded = load_model(_with_external_data(model, tmp_path))
    assert [tensor.name for tensor in loaded.graph.initializer] == [t.name for t in model.graph.initializer]
    for ours, theirs in zip(loaded.graph.initializer, model.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))
    assert [value.name for value in loaded.graph.input] == ["x"]


def test_nothing_of_the_models_size_is_encoded(monkeypatch, tmp_path):
    """No step makes a message that holds the weights."""
    path = _saved(_mlp(4, 256), tmp_path)
    largest = []
    check, infer = onnx.checker.check_model, onnx.shape_inference.infer_shapes
    opened = runner._open
    monkeypatch.setattr(
        onnx.checker, "check_model", lambda m, *a, **k: largest.append(m.ByteSize()) or check(m, *a, **k)
    )
    monkeypatch.setattr(
        onnx.shape_inference, "infer_shapes", lambda m, *a, **k: largest.append(m.ByteSize()) or infer(m, *a, **k)
    )
    monkeypatch.setattr(runner, "_open", lambda m: largest.append(len(m)) or opened(m))
    ranges = Calibrator(path, progress=False).collect(_feed(width=256)).compute_ranges()
    ek.compile(ek.quantize(path, ranges))
    assert len(largest) > 4
    assert max(largest) < 16_384 < path.stat().st_size / 16


@pytest.mark.parametrize("damage", ["short", "moved", "length", "dims"])
def test_weights_that_do_not_fit_their_file_are_refused(tmp_path, damage):
    path = _with_external_data(_mlp(), tmp_path)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[2]
    if damage == "short":
        os.truncate(tmp_path / "weights.bin", 3000)
    elif damage == "moved":
        next(e for e in tensor.external_data if e.key == "offset").value = "999999999"
    elif damage == "length":
        next(e for e in tensor.external_data if e.key == "length").value = "2000"
    else:
        tensor.dims[0] = 31
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ArgumentValueError, match="Calibrator: model must be ONNX, but"):
        Calibrator(path)


@pytest.mark.parametrize("location", ["../weights.bin", "link.bin", "/etc/hostname"])
def test_weights_outside_the_folder_of_the_model_are_refused(tmp_path, location):
    (tmp_path / "inside").mkdir()
    path = _with_external_data(_mlp(), tmp_path / "inside")
    (tmp_path / "inside" / "weights.bin").rename(tmp_path / "weights.bin")
    (tmp_path / "inside" / "link.bin").symlink_to(tmp_path / "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = location
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ArgumentValueError, match="Calibrator: model must be ONNX, but"):
        Calibrator(path)


def test_a_file_that_changes_under_its_reader_is_an_error(tmp_path):
    path = _saved(_mlp(), tmp_path)
    opened = open_model(path, function="test")
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(OSError, match="was changed while weights were read"):
        opened.weights["w0"].array()


@settings(max_examples=200)
@given(st.data())
def test_a_damaged_file_is_a_typed_error_or_the_model_that_protobuf_reads(data):
    content = bytearray(_mlp(2, 16).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        try:
            found = load_model(damaged)
        except ArgumentValueError:
            continue
        expected = onnx.load_from_string(damaged).graph.initializer
        assert [t.raw_data for t in found.graph.initializer] == [t.raw_data for t in expected]


@pytest.mark.usefixtures("no_float_kernels")
def test_a_host_step_past_what_a_message_holds_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("edgekern.compiler.passes.extract_hosts._MAX_MESSAGE_BYTES", 4096)
    with pytest.raises(CompileError, match=r"Gemm .* go to the host with \d+ bytes of constants"):
        ek.compile(_mlp())


@pytest.mark.usefixtures("no_float_kernels")
def test_a_deep_model_with_host_steps_compiles():
    """Looking for the constants of a host step walked the whole depth of the graph, and met Python's limit."""
    scale, zero = (numpy_helper.from_array(np.array(v), n) for v, n in ((np.float32(0.1), "s"), (np.uint8(9), "z")))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["t0"]),
        *(helper.make_node("Transpose", [f"t{i}"], [f"t{i + 1}"], perm=[1, 0]) for i in range(1100)),
        helper.make_node("Softmax", ["t1100"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 3]) for name in "xy")
    with pytest.warns(EdgekernWarning, match="run on the host"):
        program = ek.compile(_model(helper.make_graph(nodes, "deep", [x], [y], [scale, zero])))
    assert [step.operators for step in program.host_steps] == [("Softmax",)]


# --- pieces


def test_counts_do_not_depend_on_where_the_model_is_cut(monkeypatch):
    whole = Calibrator(_mlp(6), progress=False).collect(_feed(100))
    assert whole._runner.num_pieces == 1
    for budget in (0, 20_000, 60_000):
        monkeypatch.setattr(runner, "PIECE_BYTES", budget)
        cut = Calibrator(_mlp(6), progress=False).collect(_feed(100))
        assert cut._runner.num_pieces > 1
        assert cut.histograms == whole.histograms
        assert cut.compute_ranges() == whole.compute_ranges()


def test_batches_of_any_size_go_through_the_pieces_of_the_first(monkeypatch):
    """A smaller one failed: the pieces were held to the shapes that they had been planned for."""
    sizes = (25, 7, 1, 30)
    whole = Calibrator(_mlp(6), progress=False).collect_many([_feed(rows) for rows in sizes])
    monkeypatch.setattr(runner, "PIECE_BYTES", 0)
    cut = Calibrator(_mlp(6), progress=False).collect_many([_feed(rows) for rows in sizes])
    assert cut._runner.num_pieces > 1
    assert cut.histograms == whole.histograms


def test_counts_do_not_depend_on_what_else_is_observed():
    everything = Calibrator(_mlp(), progress=False).collect(_feed())
    alone = Calibrator(_mlp(), tensors=["p2"], progress=False).collect(_feed())
    assert alone.histograms["p2"] == everything.histograms["p2"]


def test_a_batch_that_fails_in_a_later_piece_counts_nothing(monkeypatch):
    shape = numpy_helper.from_array(np.array([5, -1], np.int64), "shape")
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "shape"], ["c"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in "xc")
    model = _model(helper.make_graph(nodes, "g", [x], [y], [shape]))
    monkeypatch.setattr(runner, "PIECE_BYTES", 0)
    calibrator = Calibrator(model, progress=False).collect(_feed(5))
    before = calibrator.state_dict()
    with pytest.raises(CalibrationError, match="could not run this batch"):
        calibrator.collect(_feed(7))
    np.testing.assert_equal(calibrator.state_dict(), before)


def test_bodies_and_constants_are_where_the_pieces_need_them(monkeypatch):
    def body(name: str, kind: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["a"], [name])], name, [], [out])

    half = numpy_helper.from_array(np.array(0.5, np.float32))
    nodes = [
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("ReduceSum", ["a"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "half"], ["yes"]),
        helper.make_node("Mul", ["a", "half"], ["b"]),
        helper.make_node("If", ["yes"], ["c"], then_branch=body("t", "Neg"), else_branch=body("e", "Abs")),
        helper.make_node("Mul", ["c", "half"], ["d"]),
        helper.make_node("Add", ["d", "a"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 32]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y])
    model = _model(graph)
    whole = Calibrator(model, progress=False).collect(_feed())
    monkeypatch.setattr(runner, "PIECE_BYTES", 0)
    cut = Calibrator(model, progress=False).collect(_feed())
    assert cut._runner.num_pieces > 3
    assert cut.histograms == whole.histograms


@pytest.mark.parametrize("name", ["cnn/resnet8_cifar10", "audio/kws_ds_cnn", "cnn/vww_mobilenetv1_0.25_96"])
def test_real_models_count_the_same_in_pieces(monkeypatch, test_data, name):
    path = test_data / f"{name}.onnx"
    shape = [side.dim_value or 2 for side in onnx.load(path).graph.input[0].type.tensor_type.shape.dim]
    counted = []
    for budget in (1 << 40, 1 << 16):
        monkeypatch.setattr(runner, "PIECE_BYTES", budget)
        calibrator = Calibrator(path, progress=False)
        x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        counted.append(calibrator.collect({calibrator.input_names[0]: x}))
    assert [c._runner.num_pieces > 1 for c in counted] == [False, True]
    assert counted[0].histograms == counted[1].histograms


# --- the command line


def test_files_are_read_in_batches(tmp_path, monkeypatch, capsys):
    path = _saved(_mlp(), tmp_path)
    np.save(tmp_path / "data.npy", _feed(20)["x"])
    seen = []
    collect = Calibrator.collect
    monkeypatch.setattr(Calibrator, "collect", lambda self, feeds: seen.append(len(feeds["x"])) or collect(self, feeds))
    command = ["calibrate", str(path), str(tmp_path / "data.npy"), "-o", str(tmp_path / "ranges.json")]
    assert cli.run(command) == 0
    assert cli.run([*command, "--batch", "0"]) == 0
    assert cli.run([*command, "--batch", "15"]) == 0
    assert seen == [8, 8, 4, 20, 15, 5]


def test_a_program_runs_as_many_rows_at_a_time_as_it_takes(tmp_path, capsys):
    ranges = Calibrator(_mlp(), progress=False).collect(_feed()).compute_ranges()
    program = ek.compile(ek.quantize(_mlp(), ranges), batch=4)
    program.save(tmp_path / "model.ekm")
    x = _feed(12)["x"]
    np.save(tmp_path / "data.npy", x)
    output = tmp_path / "out.npz"
    assert cli.run(["run", str(tmp_path / "model.ekm"), str(tmp_path / "data.npy"), "-o", str(output)]) == 0
    session = ek.InferenceSession(program)
    expected = np.concatenate([session.run(None, {"x": x[i : i + 4]})[0] for i in range(0, 12, 4)])
    with np.load(output) as found:
        np.testing.assert_array_equal(found["r3"], expected)
    np.save(tmp_path / "data.npy", x[:10])
    capsys.readouterr()
    assert cli.run(["run", str(tmp_path / "model.ekm"), str(tmp_path / "data.npy")]) == 2
    assert re.search(r"has 10 rows, but the model takes 4 at a time", capsys.readouterr().err)


def test_a_large_constant_stands_aside_and_a_small_one_does_not():
    opened = open_model(_mlp(1, 32), function="test")
    assert list(opened.weights) == ["w0"]
    opened.add_constant(np.zeros(skeleton.LARGE, np.uint8), "large")
    opened.add_constant(np.zeros(2, np.float32), "small")
    assert list(opened.weights) == ["w0", "large"]
    assert [tensor.name for tensor in opened.to_proto().graph.initializer] == ["w0", "b0", "small", "large"]
