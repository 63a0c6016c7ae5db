"""What programs for onnxruntime say to a session: options, providers, values and bindings, honored or refused."""

import copy
import ctypes
import gc
import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ArtifactError,
    EdgekernError,
    EdgekernWarning,
    RunTerminatedError,
    UnknownOptionError,
)

from graphs import Graph, feeds_of

CPU = "CPUExecutionProvider"


def two_products():
    g = Graph()
    hidden = g.op("Relu", g.op("MatMul", g.input("x", (2, 6)), g.const(g.rng.normal(size=(6, 8)), np.float32)))
    return g.model(g.op("MatMul", hidden, g.const(g.rng.normal(size=(8, 3)), np.float32)), hidden)


@pytest.fixture(scope="module")
def model():
    return two_products()


@pytest.fixture(scope="module")
def program(model):
    return ek.compile(model, allow_host=False)


@pytest.fixture(scope="module")
def feeds(model):
    return feeds_of(model)


@pytest.fixture
def session(program):
    return ek.InferenceSession(program, num_threads=1)


def theirs(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])


# Options.


def attributes(kind):
    """What onnxruntime's options have that holds a value."""
    made = kind()
    return {name: getattr(made, name) for name in dir(made) if name[0] != "_" and not callable(getattr(made, name))}


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions"])
def test_every_attribute_of_onnxruntime_is_there_with_its_default(name):
    ours = getattr(ek, name)()
    for attribute, value in attributes(getattr(onnxruntime, name)).items():
        assert getattr(ours, attribute) == getattr(value, "value", value), attribute


@pytest.mark.parametrize("name", ["GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder"])
def test_enums_have_onnxruntimes_members(name):
    theirs = getattr(onnxruntime, name).__members__
    assert {key: int(member) for key, member in getattr(ek, name).__members__.items()} == {
        key: member.value for key, member in theirs.items()
    }


@pytest.mark.parametrize("kind", [ek.SessionOptions, ek.RunOptions])
@pytest.mark.parametrize("name", ["intra_op_threads", "register_custom_ops_library", "add_active_adapter"])
def test_what_is_no_option_is_refused(kind, name):
    options = kind()
    assert not hasattr(options, name)
    for touch in (lambda: getattr(options, name), lambda: setattr(options, name, 1)):
        with pytest.raises(UnknownOptionError, match=f"edgekern has no option '{name}'; it has .*log_severity_level"):
            touch()


WRONG = {
    "threads": ("intra_op_num_threads", -1, ArgumentValueError, "must be an integer of at least 0, got -1"),
    "bool": ("inter_op_num_threads", True, ArgumentValueError, "must be an integer of at least 0, got True"),
    "text": ("intra_op_num_threads", "two", ArgumentTypeError, "must be an integer, got str 'two'"),
    "level": ("graph_optimization_level", 7, ArgumentValueError, "must be one of ORT_DISABLE_ALL, .*, got 7"),
    "mode": ("execution_mode", "parallel", ArgumentValueError, "must be one of ORT_SEQUENTIAL, ORT_PARALLEL"),
    "flag": ("enable_profiling", "yes", ArgumentTypeError, "must be True or False"),
    "severity": ("log_severity_level", 5, ArgumentValueError, r"must be 0 \(verbose\) to 4 \(fatal\)"),
    "prefix": ("profile_file_prefix", "a\0b", ArgumentValueError, "null byte"),
    "file": ("optimized_model_filepath", "m.onnx", ArgumentValueError, "edgekern writes no optimized model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_are_checked_where_they_are_set(name):
    attribute, value, error, message = WRONG[name]
    options = ek.SessionOptions()
    before = getattr(options, attribute)
    with pytest.raises(error, match=f"SessionOptions: {attribute} .*{message}"):
        setattr(options, attribute, value)
    assert getattr(options, attribute) == before


def test_threads_are_honored(program):
    options = ek.SessionOptions()
    options.intra_op_num_threads = 2
    session = ek.InferenceSession(program, options)
    assert (session.num_threads, session.get_session_options().intra_op_num_threads) == (2, 2)
    options.intra_op_num_threads = 1  # the session has a copy
    assert session.get_session_options().intra_op_num_threads == 2
    assert ek.InferenceSession(program, options, num_threads=1).num_threads == 1
    with pytest.raises(ArgumentValueError, match=r"num_threads must be sess_options\.intra_op_num_threads, 1, got 2"):
        ek.InferenceSession(program, options, num_threads=2)
    assert ek.InferenceSession(program, ek.SessionOptions(), num_threads=2).num_threads == 2
    assert pickle.loads(pickle.dumps(session)).num_threads == 2


def test_entries_are_kept_and_those_that_change_results_are_refused():
    options = ek.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(ArgumentValueError, match="there is no entry 'nothing'"):
        options.get_session_config_entry("nothing")
    with pytest.raises(ArgumentValueError, match=r"edgekern cannot do 'session\.set_denormal_as_zero' = '1'"):
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    with pytest.raises(ArgumentTypeError, match="value must be a string, got int 1"):
        options.add_session_config_entry("session.dynamic_block_base", 1)
    run = ek.RunOptions()
    run.add_run_config_entry("gpu_graph_id", "-1")
    assert run.get_run_config_entry("gpu_graph_id") == "-1"


def test_options_of_onnxruntime_itself_are_read(program, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    found = ek.InferenceSession(program, options).get_session_options()
    assert (found.intra_op_num_threads, found.graph_optimization_level.name) == (2, "ORT_ENABLE_BASIC")
    options.optimized_model_filepath = "m.onnx"
    with pytest.raises(ArgumentValueError, match="optimized_model_filepath must be empty"):
        ek.InferenceSession(program, options)
    options.optimized_model_filepath = ""
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    with pytest.raises(ArgumentValueError, match="edgekern cannot do"):
        ek.InferenceSession(program, options)
    run = onnxruntime.RunOptions()
    ek.InferenceSession(program).run(None, feeds, run)
    run.terminate = True
    with pytest.raises(RunTerminatedError):
        ek.InferenceSession(program).run(None, feeds, run)


@pytest.mark.parametrize("wrong", [3, {}, "fast", ek.RunOptions(), ek.SessionOptions, object()])
def test_other_things_are_no_options(program, session, feeds, wrong):
    with pytest.raises(ArgumentTypeError, match=r"sess_options must be an edgekern\.SessionOptions, got"):
        ek.InferenceSession(program, wrong)
    if not isinstance(wrong, ek.RunOptions):
        with pytest.raises(ArgumentTypeError, match=r"run: run_options must be an edgekern\.RunOptions, got"):
            session.run(None, feeds, wrong)


def test_free_dimensions_must_be_those_of_the_program(program):
    options = ek.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 2)
    options.add_free_dimension_override_by_denotation("DATA_CHANNEL", 6)
    ek.InferenceSession(program, options)
    options.add_free_dimension_override_by_name("batch", 5)
    with pytest.raises(ArgumentValueError, match=r"'batch' to be 5, but .* x \[2, 6\]; .*shapes=\{'batch': 5\}"):
        ek.InferenceSession(program, options)


def test_free_dimensions_of_several_sizes_are_known_by_name():
    g = Graph()
    program = ek.compile(g.model(g.op("Relu", g.input("x", ("rows", 8)))), shapes={"rows": [2, 4]})
    for size, fits in ((2, True), (4, True), (8, False)):  # 8 is the other axis
        options = ek.SessionOptions()
        options.add_free_dimension_override_by_name("rows", size)
        if fits:
            ek.InferenceSession(program, options)
        else:
            with pytest.raises(ArgumentValueError, match=r"'rows' to be 8, but .* compiled for \[2, 4\]"):
                ek.InferenceSession(program, options)


def test_options_are_copied_and_shown():
    options = ek.SessionOptions()
    options.intra_op_num_threads = 3
    for other in (copy.copy(options), copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert other.intra_op_num_threads == 3
    assert repr(options) == "SessionOptions(intra_op_num_threads=3)"


def test_a_run_is_refused_that_shall_not_run(session, feeds):
    options = ek.RunOptions()
    for run in (
        lambda: session.run(None, feeds, options),
        lambda: session.run(None, feeds, run_options=options),
        lambda: session.run_with_ort_values(None, {"x": ek.OrtValue.ortvalue_from_numpy(feeds["x"])}, options),
        lambda: session.run_with_iobinding(bound(session, feeds), options),
    ):
        options.terminate = False
        run()
        options.terminate = True
        with pytest.raises(RunTerminatedError, match=r"run_options\.terminate is True"):
            run()


def bound(session, feeds):
    binding = session.io_binding()
    binding.bind_cpu_input("x", feeds["x"])
    for node in session.get_outputs():
        binding.bind_output(node.name)
    return binding


# Providers.


def test_providers_are_onnxruntimes_lists(program):
    for providers, options in (
        (None, None),
        ([], None),
        ([CPU], None),
        ((CPU,), None),
        ([(CPU, {"arena_extend_strategy": "kSameAsRequested"})], None),
        ([CPU], [{"use_arena": 1}]),
    ):
        session = ek.InferenceSession(program, None, providers, options)
        assert session.get_providers() == [CPU] == ek.get_available_providers()
        assert session.get_provider_options() == {CPU: {}}
        session.set_providers(providers, options)


def test_others_are_skipped_and_said(program):
    message = "CUDAExecutionProvider, TensorrtExecutionProvider of providers is skipped; edgekern has"
    with pytest.warns(EdgekernWarning, match=message) as seen:
        ek.InferenceSession(program, providers=["CUDAExecutionProvider", ("TensorrtExecutionProvider", {}), CPU])
    assert [one.filename for one in seen] == [__file__]
    with pytest.warns(EdgekernWarning, match="set_providers: CUDAExecutionProvider of"):
        ek.InferenceSession(program).set_providers(["CUDAExecutionProvider", CPU])


BAD_PROVIDERS = {
    "none of ours": (["CUDAExecutionProvider"], None, ArgumentValueError, f"must have '{CPU}' among them"),
    "string": (CPU, None, ArgumentTypeError, "providers must be a list, got str"),
    "number": (3, None, ArgumentTypeError, "providers must be a list, got int"),
    "entry": ([3], None, ArgumentTypeError, r"must hold names or \(name, dict\), got 3"),
    "pair": ([(CPU, "fast")], None, ArgumentTypeError, r"must hold names or \(name, dict\)"),
    "lengths": ([CPU], [{}, {}], ArgumentValueError, "an entry for each of 1 providers, got 2"),
    "both": ([(CPU, {})], [{}], ArgumentTypeError, "options stand in one of both lists"),
    "options": ([CPU], ["fast"], ArgumentTypeError, "must be a list of dicts"),
    "no list": ([CPU], {}, ArgumentTypeError, "provider_options must be a list, got dict"),
}


@pytest.mark.parametrize("name", BAD_PROVIDERS)
def test_bad_providers_are_refused(program, name):
    providers, options, error, message = BAD_PROVIDERS[name]
    for call in (lambda *a: ek.InferenceSession(program, None, *a), ek.InferenceSession(program).set_providers):
        with pytest.raises(error, match=message):
            call(providers, options)


def test_names_of_the_package_answer_as_onnxruntimes_do():
    assert ek.get_device() == "CPU"
    ek.set_default_logger_severity(3)
    for wrong in (-1, 5):
        with pytest.raises(ArgumentValueError, match="severity must be 0"):
            ek.set_default_logger_severity(wrong)


# The session.


def test_a_session_has_onnxruntimes_methods(session, model, feeds):
    other = theirs(model)
    missing = {name for name in dir(other) if name[0] != "_" and not hasattr(session, name)}
    assert missing == NOT_THERE
    assert session.get_overridable_initializers() == other.get_overridable_initializers() == []
    session.disable_fallback()
    session.enable_fallback()
    with session as same:
        assert same is session
    assert len(session.run(output_names=[], input_feed=feeds)) == 2  # no name is every output


# Devices, tuning and providers' own business: docs/from-onnxruntime.md names them.
NOT_THERE = {
    "create_ortvalue_from_shape_and_type",
    "get_input_epdevices",
    "get_input_memory_infos",
    "get_output_memory_infos",
    "get_provider_graph_assignment_info",
    "get_tuning_results",
    "release_captured_graph",
    "run_with_ortvaluevector",
    "set_ep_dynamic_options",
    "set_tuning_results",
}


@pytest.mark.parametrize("lender", ["path", "str", "bytes"])
def test_an_onnx_model_is_refused_with_the_lines_that_compile_it(model, tmp_path, monkeypatch, lender):
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(model.SerializeToString())
    source = {"path": Path("m.onnx"), "str": "m.onnx", "bytes": model.SerializeToString()}[lender]
    with pytest.raises(ArtifactError, match="it is an ONNX model") as caught:
        ek.InferenceSession(source)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:]]
    names = {"edgekern": ek, "model": model}
    exec("\n".join(lines), names)  # they do what they say
    assert isinstance(names["session"], ek.InferenceSession)
    assert set(os.listdir()) == {"m.onnx", "model.ekm" if lender == "bytes" else "m.ekm"}


# Values.


@given(
    st.sampled_from(["f2", "f4", "f8", "u1", "i1", "i4", "i8", "?"]),
    st.lists(st.integers(0, 4), max_size=4),
    st.booleans(),
)
def test_ort_values_say_what_onnxruntimes_say(dtype, shape, fixed):
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array.flags.writeable = not fixed
    ours, theirs = ek.OrtValue.ortvalue_from_numpy(array), onnxruntime.OrtValue.ortvalue_from_numpy(array)
    asked = ("shape", "data_type", "element_type", "tensor_size_in_bytes", "device_name", "has_value", "is_tensor")
    asked += ("is_sparse_tensor", "is_tensor_sequence", "__dlpack_device__")
    for name in asked:
        assert getattr(ours, name)() == getattr(theirs, name)(), name
    assert ours.numpy() is array
    assert ours.data_ptr() == array.ctypes.data
    if not fixed:
        assert np.shares_memory(np.from_dlpack(ours), array) or array.size == 0
    assert np.asarray(ours) is array


def test_ort_values_are_made_and_changed():
    value = ek.OrtValue.ortvalue_from_shape_and_type([2, 3], np.float32)
    assert (value.shape(), value.data_type(), value.numpy().any()) == ([2, 3], "tensor(float)", False)
    assert ek.OrtValue.ortvalue_from_shape_and_type([2], 7).numpy().dtype == np.int64
    value.update_inplace(np.ones((2, 3), np.float32))
    value.update_inplace(ek.OrtValue.from_dlpack(2 * value.numpy()))
    assert (value.numpy() == 2).all()
    with pytest.raises(ArgumentTypeError, match="data must be float32, got float64"):
        value.update_inplace(np.ones((2, 3)))
    with pytest.raises(ArgumentValueError, match=r"data must have shape \(2, 3\), got \(3, 2\)"):
        value.update_inplace(np.ones((3, 2), np.float32))
    with pytest.raises(ValueError, match="without a copy"):
        np.array(value, np.float64, copy=False)
    assert np.array(value, np.float64).dtype == np.float64


BAD_VALUES = {
    "device": (lambda: ek.OrtValue.ortvalue_from_numpy(np.ones(2), "cuda"), "device_type must be 'cpu', got 'cuda'"),
    "number": (lambda: ek.OrtValue.ortvalue_from_numpy(np.ones(2), "cpu", 1), "device_id must be 0, got 1"),
    "list": (lambda: ek.OrtValue.ortvalue_from_numpy([1.0]), "must be a NumPy array, got list"),
    "text": (lambda: ek.OrtValue.ortvalue_from_numpy(np.array(["a"])), "ONNX has no elements of <U1"),
    "size": (lambda: ek.OrtValue.ortvalue_from_shape_and_type([-1], "f4"), r"no negative size, got \[-1\]"),
    "memory": (lambda: ek.OrtValue.ortvalue_from_shape_and_type([2**40] * 2, "f4"), "larger than any memory"),
    "element": (lambda: ek.OrtValue.ortvalue_from_shape_and_type([1], 8), "one of ONNX's numbers"),
    "dtype": (lambda: ek.OrtValue.ortvalue_from_shape_and_type([1], "float31"), "is no NumPy dtype"),
}


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_are_refused(name):
    make, message = BAD_VALUES[name]
    with pytest.raises(EdgekernError, match=message):
        make()


def test_ort_values_go_in_and_come_out(session, feeds):
    value = ek.OrtValue.ortvalue_from_numpy(feeds["x"])
    want = session.run(None, feeds)
    names = [node.name for node in session.get_outputs()]
    for got in (session.run_with_ort_values(None, {"x": value}), session.run_with_ort_values(names, {"x": value})):
        for one, expected in zip(got, want, strict=True):
            np.testing.assert_array_equal(one.numpy(), expected)
    np.testing.assert_array_equal(session.run(names[:1], {"x": value})[0], want[0])
    with pytest.raises(ArgumentTypeError, match="run_with_ort_values: input 'x' must be an OrtValue, got ndarray"):
        session.run_with_ort_values(None, feeds)


# Bindings.


def test_bindings_run_as_onnxruntimes_do(model, session, feeds):
    want = session.run(None, feeds)
    first, second = (node.name for node in session.get_outputs())
    room = np.zeros_like(want[0])
    for module, other in ((ek, session), (onnxruntime, theirs(model))):
        x = feeds["x"].copy()
        binding = other.io_binding()
        binding.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
        binding.bind_output(second)
        binding.bind_output(first, "cpu", 0, np.float32, room.shape, room.ctypes.data)
        binding.synchronize_inputs()
        other.run_with_iobinding(binding)
        binding.synchronize_outputs()
        values = binding.get_outputs()
        assert [type(value) for value in values] == [module.OrtValue] * 2
        assert [value.shape() for value in values] == [list(want[1].shape), list(want[0].shape)]  # as they were bound
        np.testing.assert_allclose(values[0].numpy(), want[1], rtol=1e-5)
        np.testing.assert_allclose(room, want[0], rtol=1e-5)
        kept = binding.copy_outputs_to_cpu()
        x[...] = 0  # what is bound is read again, into the same memory
        at = values[0].data_ptr()
        other.run_with_iobinding(binding)
        assert binding.get_outputs()[0].data_ptr() == at
        assert not binding.get_outputs()[0].numpy().any()
        np.testing.assert_allclose(kept[0], want[1], rtol=1e-5)
        binding.bind_cpu_input("x", feeds["x"])  # another memory, the rest as it was
        other.run_with_iobinding(binding)
        np.testing.assert_allclose(room, want[0], rtol=1e-5)
        value = module.OrtValue.ortvalue_from_numpy(feeds["x"])
        target = module.OrtValue.ortvalue_from_numpy(np.zeros_like(want[1]))
        binding.clear_binding_inputs()
        binding.clear_binding_outputs()
        binding.bind_ortvalue_input("x", value)
        binding.bind_ortvalue_output(second, target)
        other.run_with_iobinding(binding)
        np.testing.assert_allclose(target.numpy(), want[1], rtol=1e-5)


BAD_BINDINGS = {
    "name": (lambda b, x: b.bind_cpu_input("y", x), "bind_cpu_input: there is no input 'y'; the inputs are"),
    "output": (lambda b, x: b.bind_output("y"), "bind_output: there is no output 'y'"),
    "device": (lambda b, x: b.bind_output("x", "cuda"), "bind_output: device_type must be 'cpu', got 'cuda'"),
    "null": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", (2, 6), 0), "address of 48 bytes, got 0x0"),
    "below": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", (2, 6), -8), "address of 48 bytes, got -0x8"),
    "end": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", (2, 6), 2**64 - 8), "address of 48 bytes, got 0xf"),
    "negative": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", (-2, 6), 64), r"no negative size, got \[-2, 6\]"),
    "overflow": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", (2**31, 2**31), 64), "larger than any memory"),
    "pointer": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", (2, 6), x), "must be an address, got ndarray"),
    "shape": (lambda b, x: b.bind_input("x", "cpu", 0, "f4", 3.5, 64), "shape must be a list of integers, got 3.5"),
    "value": (lambda b, x: b.bind_ortvalue_input("x", x), "ortvalue must be an OrtValue, got ndarray"),
}


@pytest.mark.parametrize("name", BAD_BINDINGS)
def test_bad_bindings_are_refused(session, feeds, name):
    call, message = BAD_BINDINGS[name]
    with pytest.raises(EdgekernError, match=message):
        call(session.io_binding(), feeds["x"])


def test_bindings_are_checked_before_they_run(program, session, feeds):
    x, [first, _] = feeds["x"], [node.name for node in session.get_outputs()]
    binding = session.io_binding()
    for expected in ("no output is bound", r"no memory is bound to the inputs \['x'\]"):
        with pytest.raises(ArgumentValueError, match=expected):
            session.run_with_iobinding(binding)
        binding.bind_output(first)
    with pytest.raises(ArgumentValueError, match="get_outputs: nothing was run"):
        binding.get_outputs()
    binding.bind_cpu_input("x", x[:1])
    with pytest.raises(ArgumentValueError, match=r"input 'x' must have shape \(2, 6\), got \(1, 6\)"):
        session.run_with_iobinding(binding)
    binding.bind_cpu_input("x", x)
    binding.bind_output(first, "cpu", 0, np.float32, (2, 2), x.ctypes.data)
    with pytest.raises(ArgumentValueError, match=r"must have shape \(2, 3\), got \(2, 2\)"):
        session.run_with_iobinding(binding)
    with pytest.raises(ArgumentValueError, match="element_type and shape must be given with buffer_ptr"):
        binding.bind_output(first, "cpu", 0, buffer_ptr=x.ctypes.data)
    with pytest.raises(ArgumentValueError, match="iobinding must be of this session"):
        ek.InferenceSession(program).run_with_iobinding(binding)
    with pytest.raises(ArgumentTypeError, match="iobinding must be an IOBinding, got dict"):
        session.run_with_iobinding({})


def test_memory_that_is_no_pythons_is_read_and_written(session, feeds):
    """As of a camera or a shared segment: only its address is known."""
    room = (ctypes.c_float * 12)(*feeds["x"].ravel())
    binding = session.io_binding()
    binding.bind_input("x", "cpu", 0, 1, [2, 6], ctypes.addressof(room))
    first = session.get_outputs()[0].name
    binding.bind_output(first)
    session.run_with_iobinding(binding)
    np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], session.run([first], feeds)[0])


# Profiles.


def profiled(program, tmp_path, **options):
    wanted = ek.SessionOptions()
    wanted.enable_profiling, wanted.profile_file_prefix = True, str(tmp_path / "p")
    return ek.InferenceSession(program, wanted, num_threads=1, **options)


def test_runs_are_traced_into_a_file(program, tmp_path, feeds, session):
    before = time.monotonic_ns()
    traced = profiled(program, tmp_path)
    assert before <= traced.get_profiling_start_time_ns() <= time.monotonic_ns()
    want = session.run(None, feeds)
    binding = traced.bind(feeds)
    for _ in range(3):
        np.testing.assert_array_equal(traced.run(None, feeds)[0], want[0])
    binding.run()
    with pytest.warns(EdgekernWarning, match="is copied"):
        traced.run(None, {"x": np.asfortranarray(feeds["x"])})
    assert traced.profile(feeds, runs=2).p50_us > 0
    for _ in range(5):
        traced.run(None, feeds)
    name = traced.end_profiling()
    assert (Path(name).parent, Path(name).name[:2], Path(name).suffix) == (tmp_path, "p_", ".json")
    assert traced.end_profiling() == ""
    traced.run(None, feeds)
    events = json.loads(Path(name).read_text())
    runs = [event for event in events if event["name"] == "model_run"]
    nodes = [event for event in events if event["cat"] == "Node"]
    assert events[0]["name"] == "session_initialization"
    assert len(runs) == 10
    assert [node["args"]["op_name"] for node in nodes] == [step.op for step in program.steps] * 10
    assert [node["name"] for node in nodes[: len(program.steps)]] == [
        f"{step.name}_kernel_time" for step in program.steps
    ]
    took = {tuple(step["dur"] for step in steps) for steps in np.array_split(nodes, 10)[5:]}
    assert len(took) > 1  # the clock goes on behind profile(), which has turned it on and off
    for run, steps in zip(runs, np.array_split(nodes, 10), strict=True):
        assert all(step["dur"] >= 0 and step["ts"] >= run["ts"] for step in steps)
        assert 0 < sum(step["dur"] for step in steps) <= run["dur"]
    assert sum(step["dur"] for step in nodes) > 0
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.filterwarnings("ignore:compile. nothing of the model runs on a kernel")
@pytest.mark.usefixtures("no_float_kernels")
def test_host_steps_are_in_the_trace(tmp_path):
    g = Graph()
    hosted = ek.compile(g.model(g.op("Erf", g.input("x", (3, 4)))))
    with profiled(hosted, tmp_path) as session:
        session.run(None, {"x": np.ones((3, 4), np.float32)})
    [file] = tmp_path.iterdir()
    [node] = [event for event in json.loads(file.read_text()) if event["cat"] == "Node"]
    assert (node["args"]["op_name"], node["args"]["path"]) == ("Erf", "host")
    assert node["dur"] > 0


def test_a_session_that_goes_writes_its_trace(program, tmp_path, feeds):
    session = profiled(program, tmp_path)
    session.run(None, feeds)
    assert list(tmp_path.iterdir()) == []
    del session
    gc.collect()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_process_that_ends_writes_it_and_its_child_does_not(program, tmp_path):
    program.save(tmp_path / "m.ekm")
    code = """
import os, sys, numpy as np, edgekern as ek
options = ek.SessionOptions()
options.enable_profiling, options.profile_file_prefix = True, "here"
session = ek.InferenceSession("m.ekm", options, num_threads=1)
session.run(None, {"x": np.ones((2, 6), np.float32)})
if os.fork() == 0:
    session.run(None, {"x": np.ones((2, 6), np.float32)})
    sys.exit(0 if session.end_profiling() == "" else 1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
assert not [name for name in os.listdir() if name.startswith("here")]
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert len(list(tmp_path.glob("here_*.json"))) == 1


def test_without_profiling_nothing_is_written(session, feeds, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session.run(None, feeds)
    assert (session.end_profiling(), session.get_profiling_start_time_ns()) == ("", 0)
    assert os.listdir() == []


def test_a_trace_that_is_full_says_so(program, tmp_path, feeds, monkeypatch):
    monkeypatch.setattr("edgekern.runtime.run_trace._MOST_EVENTS", 2 * (1 + len(program.steps)))
    session = profiled(program, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.run(None, feeds)
        session.run(None, feeds)
    with pytest.warns(EdgekernWarning, match="is full after 2 runs"):
        session.run(None, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.run(None, feeds)
    events = json.loads(Path(session.end_profiling()).read_text())
    assert sum(event["name"] == "model_run" for event in events) == 2


def test_a_trace_needs_a_folder(program, tmp_path):
    options = ek.SessionOptions()
    options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / "none" / "p")
    with pytest.raises(ArgumentValueError, match="profile_file_prefix must begin with a folder that is there"):
        ek.InferenceSession(program, options)
