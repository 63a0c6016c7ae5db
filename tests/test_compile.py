"""Every operator in every form that other tools write: compiled, run, and held to the NumPy reference and the graph."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgekern as ek
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    CompileError,
    EdgekernWarning,
    HostStepError,
    UnsupportedIsaError,
)

from graphs import Graph, feeds_of, onnxruntime_session
from qdq_models import (
    HOSTS,
    MODELS,
    channels_last,
    clipped_conv,
    conv,
    conv_model,
    flattened,
    gemm,
    image,
    matmul,
    residual,
    unary_model,
    unquantized_conv,
)
from reference.program import run_program


def run(program: ek.Program, feeds, **options):
    return ek.InferenceSession(program, **options).run(None, feeds)


@pytest.mark.parametrize("name", MODELS)
def test_program_computes_the_graph(name):
    """Bit for bit what the NumPy reference computes, and what onnxruntime says within one step of the result."""
    model = MODELS[name]()
    program, feeds = ek.compile(model, allow_host=False), feeds_of(model)
    ours = run(program, feeds)
    reference = run_program(program.index, program.container.blobs, [feeds[info.name] for info in program.inputs])
    for result, expected in zip(ours, reference, strict=True):
        np.testing.assert_array_equal(result, expected)
    truth = onnxruntime_session(model, optimized=False).run(None, feeds)
    assert [info.name for info in program.outputs] == [value.name for value in model.graph.output]
    for result, expected in zip(ours, truth, strict=True):
        assert result.shape == expected.shape
        assert result.dtype == expected.dtype
        difference = np.abs(result.astype(np.float64) - expected)
        steps = 1 if result.dtype.kind in "ui" else max(np.unique(difference).max(), 1e-3 * np.abs(expected).max())
        assert difference.max() <= steps
        assert np.mean(difference > 1e-4 * np.abs(expected).max()) <= 0.01


def test_program_is_the_same_on_every_isa_and_thread_count(isa):
    for name in (
        "conv",
        "conv_depthwise",
        "residual",
        "matmul_bias",
        "average_pool",
        "lookup_sigmoid",
        "concat_requantized",
    ):
        model = MODELS[name]()
        program, feeds = ek.compile(model), feeds_of(model)
        expected = run(program, feeds, isa="scalar", num_threads=1)
        for threads in (1, 2):
            for result, wanted in zip(run(program, feeds, isa=isa, num_threads=threads), expected, strict=True):
                np.testing.assert_array_equal(result, wanted)


def test_residual_add_is_fused_and_changes_no_bit():
    fused = residual()
    split = onnx.ModelProto()
    split.CopyFrom(fused)
    inner = [node.output[0] for node in fused.graph.node if node.op_type == "DequantizeLinear"]
    add = next(node for node in fused.graph.node if node.op_type == "Add")
    split.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in add.input)
    assert set(add.input) <= set(inner)
    one, many, feeds = ek.compile(fused), ek.compile(split), feeds_of(fused)
    assert [step.op for step in one.steps if "Add" in step.op] == ["Conv+Add+Relu"]
    assert [step.op for step in many.steps if "Add" in step.op] == ["Add+Relu"]
    np.testing.assert_array_equal(run(one, feeds)[0], run(many, feeds)[0])


def test_activations_and_bias_cost_no_step():
    assert [step.op for step in ek.compile(clipped_conv()).steps] == [
        "QuantizeLinear",
        "Conv+Relu+Clip",
        "DequantizeLinear",
    ]
    steps = ek.compile(matmul(4, 33, bias=True)).steps
    assert [step.op for step in steps] == ["QuantizeLinear", "MatMul+Add", "DequantizeLinear"]


def test_flattened_image_is_not_transposed():
    """The weights are permuted at compile time instead."""
    assert "TRANSPOSE" not in {step.kind for step in ek.compile(flattened("Flatten")).steps}
    assert "TRANSPOSE" not in {step.kind for step in ek.compile(channels_last()).steps if step.dtype == np.uint8}


def test_paths_name_what_runs(isa):
    program = ek.compile(residual())
    paths = dict(zip([step.op for step in program.steps], program.paths(isa=isa), strict=True))
    assert paths["QuantizeLinear"] == paths["DequantizeLinear"] == "quantize"
    assert paths["Conv+Add+Relu"] == "tile"
    wide = ek.compile(conv_model(64, 64, 3, 3, channels=64))
    assert "tile" in wide.paths(isa=isa)
    assert ek.InferenceSession(program, isa=isa, num_threads=2).paths == program.paths(isa=isa)
    assert program.paths() == program.paths(isa=ek.cpu_info()["isa"])


@pytest.mark.parametrize(
    ("rows", "k", "columns", "path"), [(1, 300, 300, "gemv"), (1, 300, 40, "tile"), (5, 300, 300, "tile")]
)
def test_path_of_a_product_follows_its_shape(rows, k, columns, path, isa):
    g = Graph()
    model = g.model(g.op("Gemm", image(g, rows, k), g.weights(k, columns, axis=1)))
    program = ek.compile(model, allow_host=False)
    [taken] = [taken for step, taken in zip(program.steps, program.paths(isa=isa), strict=True) if step.kind == "GEMM"]
    assert taken == path


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_asking_for_paths_starts_no_thread(tmp_path):
    ek.compile(residual()).save(tmp_path / "p.ekm")
    child = """
import os, sys
import edgekern as ek
program = ek.Program.load(sys.argv[1])
before = len(os.listdir("/proc/self/task"))
program.paths(), program.summary()
assert len(os.listdir("/proc/self/task")) == before
ek.InferenceSession(program, num_threads=2)
assert len(os.listdir("/proc/self/task")) == before + 1, "a session's worker is not seen"
"""
    subprocess.run([sys.executable, "-c", child, str(tmp_path / "p.ekm")], check=True, timeout=120)


def test_paths_refuse_an_isa_that_is_none():
    program = ek.compile(residual())
    with pytest.raises(UnsupportedIsaError, match="sse9"):
        program.paths(isa="sse9")
    with pytest.raises(ArgumentTypeError, match=r"Program\.paths: isa must be"):
        program.paths(isa=3)


def test_batch_fills_the_free_dimension():
    g = Graph()
    model = g.model(g.op("Gemm", image(g, "N", 33), g.weights(33, 20, axis=1)))
    assert ek.compile(model, batch=5).inputs[0].shape == (5, 33)
    whole = run(ek.compile(model, batch=5), feeds_of(model, batch=5))[0]
    row = {"x": feeds_of(model, batch=5)["x"][2:3]}
    np.testing.assert_array_equal(run(ek.compile(model), row)[0], whole[2:3])


def test_arena_is_planned_close_to_its_bound():
    g = Graph()
    x = image(g, 1, 8, 16, 16)
    for _ in range(6):
        x = g.qdq(conv(g, x, 8, 8, 3, 3, pads=[1, 1, 1, 1]), 0.4)
    program = ek.compile(g.model(x))
    plan = program.memory_plan
    assert plan.arena_bytes == plan.lower_bound
    assert plan.arena_bytes < sum(np.prod(step.shape) for step in program.steps)


@pytest.mark.usefixtures("no_float_kernels")
@pytest.mark.parametrize("name", HOSTS)
def test_what_has_no_kernel_becomes_a_host_step(name):
    build, operators, reason = HOSTS[name]
    model = build()
    with pytest.warns(EdgekernWarning, match="run on the host"):
        program = ek.compile(model)
    assert {op for step in program.host_steps for op in step.operators} == operators
    assert any(reason in step.reason for step in program.host_steps)
    assert all(step.elements > 0 for step in program.host_steps)
    assert "host step: " in program.summary()
    feeds = feeds_of(model)
    truth = onnxruntime_session(model, optimized=False).run(None, feeds)
    for result, expected in zip(run(program, feeds), truth, strict=True):
        assert np.mean(np.abs(result - expected) > 2e-2 * np.abs(expected).max()) <= 0.01


@pytest.mark.usefixtures("no_float_kernels")
@pytest.mark.parametrize("name", HOSTS)
def test_allow_host_false_names_operator_and_reason(name):
    build, operators, reason = HOSTS[name]
    with pytest.raises(HostStepError) as caught:
        ek.compile(build(), allow_host=False)
    assert reason in str(caught.value)
    assert all(operator in str(caught.value) for operator in operators)


@pytest.mark.usefixtures("no_float_kernels")
def test_connected_host_nodes_are_one_step():
    g = Graph()
    y = g.op("Gemm", image(g, 3, 33), g.weights(33, 20, axis=1))
    y = g.op("Softmax", g.op("LogSoftmax", g.op("Softmax", y)))
    z = g.op("Gemm", g.qdq(y, 1 / 255, 0), g.weights(20, 4, axis=1))
    with pytest.warns(EdgekernWarning):
        program = ek.compile(g.model(g.op("Softmax", z)))
    assert [step.operators for step in program.host_steps] == [("Softmax", "LogSoftmax", "Softmax"), ("Softmax",)]
    assert [what for what, _ in program.manifest.order] == ["segment", "host", "segment", "host"]


@pytest.mark.usefixtures("no_float_kernels")
def test_host_share_of_the_work_is_stated():
    with pytest.warns(EdgekernWarning):
        program = ek.compile(unquantized_conv())
    assert [step.macs for step in program.host_steps] == [4 * 8 * 9 * 7 * 5]
    assert program.host_steps[0].macs_share == 1.0


@pytest.mark.usefixtures("no_float_kernels")
def test_model_that_is_all_host_still_runs():
    g = Graph()
    model = g.model(g.op("Softmax", g.input("x", (2, 5))))
    with pytest.warns(EdgekernWarning):
        program = ek.compile(model)
    np.testing.assert_allclose(run(program, feeds_of(model))[0].sum(axis=1), 1, rtol=1e-6)


def float_layers():
    g = Graph()
    x = g.op("Conv", g.input("x", (2, 3, 6, 6)), g.const(g.rng.normal(size=(4, 3, 3, 3)), np.float32))
    return g.model(g.op("Gemm", g.op("Flatten", g.op("Relu", x)), g.const(g.rng.normal(size=(64, 5)), np.float32)))


@pytest.mark.usefixtures("no_float_kernels")
def test_a_float_model_is_told_to_be_quantized_first():
    """It compiled into host steps alone, and only their reasons hinted at it."""
    remedy = r"is not quantized, as it has no QuantizeLinear; .*edgekern\.Calibrator.*edgekern\.quantize"
    with pytest.warns(
        EdgekernWarning, match=rf"nothing of the model runs on a kernel .*{remedy}.*run on the host"
    ) as seen:
        ek.compile(float_layers())
    assert len(seen) == 1
    with pytest.raises(HostStepError, match=rf"(?s)Nothing of the model runs on a kernel: it {remedy}"):
        ek.compile(float_layers(), allow_host=False)
    quantized = ek.quantize(
        float_layers(), ek.Calibrator(float_layers()).collect(feeds_of(float_layers())).compute_ranges()
    )
    ek.compile(quantized, allow_host=False)


def test_a_model_of_integer_operators_is_told_which_form_is_read():
    g = Graph()
    x, one, zero = g.input("x", (2, 4, 4, 3), onnx.TensorProto.UINT8), g.const(1, np.float32), g.const(0, np.uint8)
    pool = g.op("QLinearGlobalAveragePool", x, one, zero, one, zero, channels_last=1, domain="com.microsoft")
    model = g.model(pool)
    with pytest.warns(EdgekernWarning, match=r"quantized as QLinearGlobalAveragePool, and not by QuantizeLinear"):
        ek.compile(model)


@pytest.mark.usefixtures("no_float_kernels")
def test_weights_alone_in_8_bits_leave_the_kernels_idle():
    g = Graph()
    model = g.model(g.op("Gemm", g.input("x", (2, 8)), g.weights(8, 4, axis=1)))
    with pytest.warns(EdgekernWarning, match=r"nothing of the model runs on a kernel .*: no operator reads 8 bits and"):
        ek.compile(model)


@pytest.mark.usefixtures("no_float_kernels")
def test_one_kernel_is_enough_to_be_silent_about_the_rest():
    g = Graph()
    y = g.op("Gemm", g.qdq(g.input("x", (2, 8))), g.weights(8, 4, axis=1))
    with pytest.warns(EdgekernWarning, match="^compile: 1 nodes run on the host"):
        ek.compile(g.model(g.op("LogSoftmax", y)))


def test_operator_that_nobody_can_run_is_named():
    g = Graph()
    model = g.model(g.op("NoSuchOperator", g.input("x", (2, 5))))
    with pytest.raises(CompileError, match="NoSuchOperator 'node_nosuchoperator_1'"):
        ek.compile(model)
    model = unary_model(("Relu", {}))
    model.opset_import.append(onnx.helper.make_opsetid("example.org", 1))
    model.graph.node.append(
        onnx.helper.make_node("Frobnicate", [model.graph.output[0].name], ["y"], domain="example.org")
    )
    model.graph.output[0].name = "y"
    with pytest.raises(CompileError, match=r"example\.org\.Frobnicate"):
        ek.compile(model)


def test_free_dimensions_are_refused_by_name():
    g = Graph()
    model = g.model(g.qdq(g.op("GlobalAveragePool", image(g, "N", 8, "H", 7))))
    with pytest.raises(CompileError, match=r"input 'x' has a free dimension 2 \(H\).*\(--shape H=\.\.\.\)"):
        ek.compile(model)
    with pytest.raises(CompileError, match="batch is 4, but the inputs have fixed shapes"):
        ek.compile(gemm(), batch=4)


def test_shapes_that_depend_on_the_data_are_refused():
    g = Graph()
    with pytest.raises(CompileError, match="depends on the data"):
        ek.compile(g.model(g.op("NonZero", g.op("Relu", g.input("x", (4, 5))))))


@pytest.mark.parametrize("batch", [0, -1])
def test_batch_must_be_positive(batch):
    with pytest.raises(ArgumentValueError, match="compile: batch must be at least 1"):
        ek.compile(gemm(), batch=batch)


def test_arguments_of_other_types_are_refused(tmp_path):
    with pytest.raises(ArgumentTypeError, match="batch must be an integer"):
        ek.compile(gemm(), batch=1.5)
    with pytest.raises(ArgumentTypeError, match="must be a path, bytes or"):
        ek.compile(3)
    path = tmp_path / "not.onnx"
    path.write_bytes(b"not a model at all")
    with pytest.raises(ArgumentValueError, match="ONNX"):
        ek.compile(path)


def test_opset_outside_the_range_is_refused():
    model = gemm()
    model.opset_import[0].version = 5
    with pytest.raises(ArgumentValueError, match=r"opset 5, which is outside 7\.\."):
        ek.compile(model)


def test_compiling_twice_gives_equal_programs_and_leaves_the_model():
    model = residual()
    before = model.SerializeToString()
    one, two = ek.compile(model), ek.compile(model.SerializeToString())
    assert one == two
    assert hash(one) == hash(two)
    assert one != ek.compile(gemm())
    assert model.SerializeToString() == before


def test_summary_shows_every_step_and_the_arena():
    program = ek.compile(residual())
    table = program.summary()
    for step, path in zip(program.steps, program.paths(), strict=True):
        [line] = [line for line in table.splitlines() if line.startswith(f"{step.name} ")]
        assert path in line.split()
        assert f"{step.macs:,}" in line.split()
    assert f"arena {program.memory_plan.arena_bytes:,} bytes" in table
    assert repr(program).startswith("Program(x[1, 8, 9, 7] -> ")


def test_supported_models_compile_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ek.compile(residual())


def test_older_opsets_are_upgraded():
    """Before opset 13 quantization is per tensor; the model is brought to 13 first."""
    g = Graph(opset=11)
    y = g.op("Relu", conv(g, image(g, 1, 4, 6, 6), 8, 4, 3, 3, axis=None))
    program = ek.compile(g.model(g.qdq(y, 0.3, 0)), allow_host=False)
    assert [step.op for step in program.steps] == ["QuantizeLinear", "Conv+Relu", "DequantizeLinear"]
