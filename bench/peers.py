"""The libraries that edgekern is measured beside, each set up the way its own users would run it fast.

A peer that is not installed, or that refuses a case, is said to be absent; it never stops the run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.harness import Contender, in_turn, version
from edgekern import _core

Array = npt.NDArray[Any]
Check = Callable[[Any], None]

# The package that each peer comes from.
PEERS = {
    "torch": "torch",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "numpy": "numpy",
    "llama.cpp": "llama_cpp_python",
}
PACKAGES = tuple(PEERS.values())
# Without dot products of bytes onnxruntime saturates sums of two products unless it is asked not to. Where a CPU has
# them, asking halves its speed.
_HAS_DOT_PRODUCTS = any(isa.endswith("vnni") for isa in _core.available_isas())
NO_SATURATION = ("session.x64quantprecision", "0" if _HAS_DOT_PRODUCTS else "1")
_said: set[str] = set()


def say_once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        print(message)


def join(*builders: tuple[str, Callable[[], Contender]]) -> list[Contender]:
    """Build every (peer, builder) whose package is here; say who is absent and who refuses."""
    contenders = []
    for peer, build in builders:
        if version(PEERS[peer]) is None:
            say_once(f"peer {peer} is absent: {PEERS[peer]} is not installed")
            continue
        try:
            contenders.append(build())
        except (RuntimeError, NotImplementedError, ImportError, OSError) as error:
            say_once(f"peer {peer} refuses a case: {str(error).splitlines()[0][:160]}")
    return contenders


@contextmanager
def peer_threads(threads: int) -> Iterator[None]:
    """Hold torch and NumPy's BLAS to so many threads; sessions get theirs when they are made."""
    if version("torch"):
        import torch

        torch.set_num_threads(threads)
    if version("threadpoolctl") is None:
        say_once("threadpoolctl is absent: NumPy runs on its own number of threads")
        yield
        return
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        yield


def rolled(x: Array, copies: int) -> list[Array]:
    """Copies that differ, at little cost: the last axis, columns of weights or of a product, is rolled."""
    return [np.roll(x, shift, axis=-1) for shift in range(copies)]


def on_lines(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array to write to that begins on a line of 64 bytes, as torch's tensors do."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array: Array = memory[start : start + size].view(dtype).reshape(shape)
    return array


def equals(expected: Array | Sequence[Array]) -> Check:
    """The result, or every one of its list, is exactly this."""
    return _each(expected, np.testing.assert_array_equal)


def within_one_step(expected: Array | Sequence[Array]) -> Check:
    """8-bit results may differ by the rounding of one step: libraries multiply by scales in their own order."""
    return _each(expected, lambda found, want: _require(int(np.abs(found.astype(np.int32) - want).max(initial=0)) <= 1))


def close(expected: Array | Sequence[Array], relative_noise: float) -> Check:
    """The root mean square of the error is at most this part of the signal's."""

    def check(found: Array, want: Array) -> None:
        error, signal = np.subtract(found, want, dtype=np.float64), want.astype(np.float64)
        _require(float((error**2).sum()) <= relative_noise**2 * float((signal**2).sum()) + 1e-30)

    return _each(expected, check)


def _require(condition: bool) -> None:
    assert condition, "the answer is outside of its tolerance"


def _each(expected: Array | Sequence[Array], check: Callable[[Array, Array], None]) -> Check:
    wanted = [expected] if isinstance(expected, np.ndarray) else list(expected)

    def run(result: Any) -> None:
        found = list(result) if isinstance(result, (list, tuple)) else [result]
        assert len(found) == len(wanted)
        for value, want in zip(found, wanted, strict=True):
            check(as_numpy(value), want)

    return run


def as_numpy(value: Any) -> Array:
    """A peer's own kind of tensor as an array."""
    if hasattr(value, "int_repr"):  # torch
        value = value.int_repr() if value.is_quantized else value
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def onnxruntime(
    name: str,
    model: bytes | str,
    feeds: Mapping[str, Array],
    threads: int,
    check: Check,
    *,
    calls: int = 1,
    read_bytes: int = 0,
) -> Contender:
    """A session with inputs and outputs bound, as a server would run it."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry(*NO_SATURATION)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for key, value in feeds.items():
        binding.bind_ortvalue_input(key, ort.OrtValue.ortvalue_from_numpy(value))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cpu")
    session.run_with_iobinding(binding)
    results = binding.get_outputs()
    binding.clear_binding_outputs()
    for output, result in zip(session.get_outputs(), results, strict=True):
        binding.bind_ortvalue_output(output.name, result)

    def run() -> Any:
        session.run_with_iobinding(binding)
        return results

    return Contender(name, run, check, calls, read_bytes)


def openvino(
    name: str,
    model: bytes,
    feeds: Mapping[str, Array],
    threads: int,
    check: Check,
    *,
    calls: int = 1,
    read_bytes: int = 0,
    precision: str = "",
) -> Contender:
    """A compiled model tuned for latency, one request, tensors set once; floats of this precision, or its own."""
    import openvino as ov

    core = ov.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    compiled = core.compile_model(core.read_model(model), "CPU", settings)
    request = compiled.create_infer_request()
    for key, value in feeds.items():
        request.set_tensor(key, ov.Tensor(value))
    outputs = [request.get_output_tensor(index) for index in range(len(compiled.outputs))]

    def run() -> Any:
        request.infer()
        return [tensor.data for tensor in outputs]

    return Contender(name, run, check, calls, read_bytes)


def numpy_float(name: str, x: Array, weights: Sequence[Array], expected: Sequence[Array]) -> Contender:
    """float32 through NumPy's BLAS: what a user without a quantized library has.

    Its weights are four times as large, so that a quarter of the copies fills as many caches.
    """
    kept = -(-len(weights) // 4)
    weights, expected = weights[:kept], expected[:kept]
    left, factors = x.astype(np.float32), [np.ascontiguousarray(w, np.float32) for w in weights]
    pairs = [(w, on_lines(want.shape, np.float32)) for w, want in zip(factors, expected, strict=True)]
    check, read = close(expected, 1e-4), factors[0].nbytes
    calls = [partial(np.matmul, left, w, out=y) for w, y in pairs]
    return Contender(name, in_turn(calls), check, len(calls), read)
