"""What programs for onnxruntime ask of a session: its methods, OrtValue and IOBinding."""

import ctypes
import os
import re
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
)

from graphs import feeds_of, two_products

CPU = "CPUExecutionProvider"


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


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions", "InferenceSession"])
def test_all_of_onnxruntimes_names_are_in_the_docs(name, repository):
    """With what they do here: what a new version adds is to be decided."""
    text = (repository / "docs" / "from-onnxruntime.md").read_text()
    asked = [one for one in dir(getattr(onnxruntime, name)) if one[0] != "_"]
    assert [one for one in asked if not re.search(rf"`{one}[`(]", text)] == []


def test_the_docs_binding_runs(repository, capsys):
    text = (repository / "docs" / "from-onnxruntime.md").read_text()
    [block] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "binding" in block]
    exec(block, {})
    digit, copied = map(int, capsys.readouterr().out.split())
    assert 0 <= digit < 10
    assert copied >= 0


# Devices, tuning and providers' own business.
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


def test_what_was_written_stays_when_other_inputs_are_bound(model, session, feeds):
    [first, *_] = [node.name for node in session.get_outputs()]
    for other in (session, theirs(model)):
        binding = other.io_binding()
        binding.bind_cpu_input("x", feeds["x"])
        binding.bind_output(first)
        other.run_with_iobinding(binding)
        want, [held] = binding.copy_outputs_to_cpu()[0], binding.get_outputs()
        binding.bind_cpu_input("x", np.zeros_like(feeds["x"]))
        np.testing.assert_array_equal(binding.copy_outputs_to_cpu()[0], want)
        np.testing.assert_array_equal(binding.get_outputs()[0].numpy(), want)
        other.run_with_iobinding(binding)
        assert binding.get_outputs()[0].data_ptr() == held.data_ptr()  # made once
        np.testing.assert_array_equal(held.numpy(), other.run([first], {"x": np.zeros_like(feeds["x"])})[0])


def test_strided_inputs_are_bound_as_they_are_now(model, session, feeds):
    strided = np.asfortranarray(feeds["x"])
    [first, *_] = [node.name for node in session.get_outputs()]
    for other in (session, theirs(model)):
        given, binding = strided.copy("F"), other.io_binding()
        if other is session:
            with pytest.warns(EdgekernWarning, match="bind_cpu_input: input 'x' is copied, 48 bytes"):
                binding.bind_cpu_input("x", given)
        else:
            binding.bind_cpu_input("x", given)
        given[...] = 0
        binding.bind_output(first)
        other.run_with_iobinding(binding)
        np.testing.assert_allclose(binding.copy_outputs_to_cpu()[0], session.run([first], feeds)[0], rtol=1e-5)


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


def test_an_ort_value_of_a_strided_array_is_as_its_address_says():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    for module in (ek, onnxruntime):
        value = module.OrtValue.ortvalue_from_numpy(x)
        there = (ctypes.c_float * 24).from_address(value.data_ptr())
        assert list(there) == x.ravel().tolist()
