"""Whatever a caller passes by mistake, the answer is a result or an error of edgekern that names the function."""

import array
import atexit
import functools
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekern as ek
from edgekern import llm
from edgekern.errors import EdgekernError, EdgekernWarning

from graphs import Graph
from llm_files import SMALL, random_tensors, write_llama2c


class Foreign:
    """A tensor of another library: on this CPU, on another device, part of a graph, or of a type that NumPy lacks."""

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(facts)

    def __dlpack__(self, **options: Any) -> Any:
        return np.ones((4, 8), np.float32).__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (getattr(self, "kind", 1), 0)


class Named:
    def __fspath__(self) -> str:
        return "no/such/file"


class Failing:
    def __array__(self, *given: Any, **named: Any) -> Any:
        raise RuntimeError("another library's words")


ODD: list[Any] = [
    None,
    True,
    1.5,
    float("nan"),
    1 + 2j,
    2**40,
    2**70,
    -(2**70),
    10**400,
    "a",
    b"a",
    [],
    [1, 2],
    [[1], [2, 3]],
    {},
    object(),
    len,
    (1, 2),
    ("a", "b"),
    np.float32(2),
    np.int64(3),
    np.uint64(2**63),
    np.array([1, 2]),
    np.array(["a"]),
    np.zeros(0),
    np.zeros((2, 2, 2), np.float32),
    np.zeros((4, 8), np.float16),
    Foreign(),
    Foreign(kind=2),
    Foreign(requires_grad=True),
    Foreign(dtype="torch.bfloat16"),
    Named(),
    Failing(),
    memoryview(b"abcd"),
    bytearray(b"ab"),
    array.array("f", [1.0, 2.0]),
    np.zeros((4, 8), np.int64),
]
try:
    import ml_dtypes

    ODD.append(np.zeros((4, 8), ml_dtypes.bfloat16))
except ImportError:
    pass

RNG = np.random.default_rng(3)
X = RNG.standard_normal((4, 8)).astype(np.float32)
Q = RNG.integers(-128, 128, (4, 8)).astype(np.int8)
W = RNG.integers(-8, 8, (8, 6)).astype(np.int8)
PACKED = ek.pack_weights(W, scale=0.1)
HEADS = RNG.standard_normal((1, 2, 3, 8)).astype(np.float32)
ANGLES = RNG.standard_normal((9, 4)).astype(np.float32)
TOKENS = RNG.standard_normal((1, 2, 2, 64)).astype(np.float32)


def _cache(**given: Any) -> ek.RingKVCache:
    return ek.RingKVCache(**{"num_layers": 1, "num_kv_heads": 2, "head_dim": 64, "window": 32, "max_chunk": 8, **given})


def _filled() -> ek.RingKVCache:
    cache = _cache(num_sequences=2)
    cache.append(TOKENS, TOKENS)
    return cache


STATE = _filled().save()


def _staged(call: str, written: bool) -> Callable[..., Any]:
    def run(**given: Any) -> Any:
        cache = _cache()
        cache.begin(2)
        if written:
            cache.write(0, TOKENS[0], TOKENS[0])
        return getattr(cache, call)(**given)

    return run


@functools.cache
def _qdq_model() -> Any:
    g = Graph()
    return g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1)))


@functools.cache
def _float_model() -> Any:
    g = Graph()
    return g.model(g.op("Gemm", g.input("x", (4, 8)), g.const(W, np.float32)))


@functools.cache
def _program() -> ek.Program:
    return ek.compile(_qdq_model(), allow_host=False)


def _calibrator() -> ek.Calibrator:
    return ek.Calibrator(_float_model(), progress=False)


@functools.cache
def _model_file() -> Any:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    return write_llama2c(Path(folder) / "small.bin", SMALL, random_tensors(SMALL))


@functools.cache
def _decoder() -> llm.Decoder:
    return llm.load(_model_file(), window=32, max_chunk=8)


@functools.cache
def _collected() -> ek.Calibrator:
    return _calibrator().collect({"x": X})


def _staged_tokens(**given: Any) -> None:
    _decoder().stage(**given)
    _decoder().abort()


_session = functools.cache(lambda: ek.InferenceSession(_program()))


def _bound() -> ek.IOBinding:
    binding = _session().io_binding()
    binding.bind_cpu_input("x", X)
    binding.bind_output(_session().get_outputs()[0].name)
    return binding


def _run_bound(bind: Callable[[ek.IOBinding], None]) -> None:
    binding = _bound()
    bind(binding)
    _session().run_with_iobinding(binding)


LINEAR = {
    "bias": None,
    "activation": None,
    "residual": None,
    "x_zero_point": 0,
    "y_zero_point": 0,
    "out_dtype": None,
    "out": None,
}
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "matmul_integer": (
        ek.matmul_integer,
        {"a": Q, "b": W, "a_zero_point": 0, "b_zero_point": 0, "out": None, "num_threads": 1},
    ),
    "linear, float32": (
        ek.linear,
        dict(x=X, w=PACKED, x_scale=None, y_scale=None, x_quantization=None, num_threads=1, **LINEAR),
    ),
    "linear, int8": (ek.linear, dict(x=Q, w=PACKED, x_scale=0.1, y_scale=0.1, **LINEAR)),
    "pack_weights, 8 bits": (
        ek.pack_weights,
        {"w": W, "scale": None, "zero_point": None, "bits": 8, "group_size": None},
    ),
    "pack_weights, 4 bits": (
        ek.pack_weights,
        {"w": W, "scale": np.ones((1, 6), np.float32), "zero_point": None, "bits": 4, "group_size": 32},
    ),
    "quantize_linear": (
        ek.quantize_linear,
        {
            "x": X,
            "scale": np.ones(8, np.float32),
            "zero_point": 0,
            "axis": 1,
            "dtype": None,
            "out": None,
            "num_threads": 1,
        },
    ),
    "dequantize_linear": (
        ek.dequantize_linear,
        {"x": Q, "scale": np.ones(8, np.float32), "zero_point": 0, "axis": 1, "out": None, "num_threads": 1},
    ),
    "dynamic_quantize": (ek.dynamic_quantize, {"x": X, "num_threads": 1}),
    "interleave_gate_up": (ek.interleave_gate_up, {"gate": X, "up": X}),
    "tile_plan": (ek.tile_plan, {"m": 4, "n": 5, "k": 6, "tile": 256, "device": "host"}),
    "attention": (
        ek.attention,
        {
            "q": HEADS,
            "k": HEADS,
            "v": HEADS,
            "mask": None,
            "causal": False,
            "window": (None, None),
            "position": 0,
            "kv_lengths": None,
        }
        | {"scale": None, "softcap": 0.0, "num_threads": 1, "isa": ""},
    ),
    "rotary_embedding": (
        ek.rotary_embedding,
        {"x": HEADS, "cosines": ANGLES, "sines": ANGLES, "positions": np.array([[0, 1, 2]]), "interleaved": False}
        | {"num_threads": 1, "isa": ""},
    ),
    "rms_norm": (ek.rms_norm, {"x": X, "weight": np.ones(8, np.float32), "eps": 1e-5, "num_threads": 1, "isa": ""}),
    "RingKVCache": (
        _cache,
        {
            "num_layers": 1,
            "num_kv_heads": 2,
            "num_heads": 4,
            "head_dim": 64,
            "window": 32,
            "sinks": 4,
            "max_chunk": 8,
            "rewind": 4,
        }
        | {"k": "int8", "v": "int8", "kv": None, "query_bits": 8, "num_sequences": 1, "num_threads": 1, "isa": ""},
    ),
    "KVFormat": (
        lambda **given: _cache(k=ek.KVFormat(**given)),
        {"kind": "int8", "group_size": None, "symmetric": True, "rotated": False},
    ),
    "append": (lambda **given: _cache().append(**given), {"k": TOKENS, "v": TOKENS, "sequence": 0}),
    "begin": (lambda **given: _cache().begin(**given), {"tokens": 2, "sequence": 0}),
    "write": (_staged("write", False), {"layer": 0, "k": TOKENS[0], "v": TOKENS[0], "sequence": 0}),
    "attend": (
        _staged("attend", True),
        {"layer": 0, "q": TOKENS[0], "q_sink": None, "scale": None, "out": None, "sequence": 0},
    ),
    "commit": (_staged("commit", True), {"accepted": 2, "sequence": 0}),
    "abort": (_staged("abort", False), {"sequence": 0}),
    "keys": (lambda **given: _filled().keys(**given), {"layer": 0, "position": 1, "sequence": 0}),
    "rewind": (lambda **given: _filled().rewind(**given), {"tokens": 1, "sequence": 0}),
    "reset": (lambda **given: _filled().reset(**given), {"position": 0, "sequence": 0}),
    "fork": (lambda **given: _filled().fork(**given), {"source": 0, "target": 1}),
    "save": (lambda **given: _filled().save(**given), {"model": b"", "sequence": 0}),
    "load": (lambda **given: _filled().load(**given), {"state": STATE, "model": b"", "sequence": 0}),
    "llm.load": (
        llm.load,
        {
            "path": _model_file(),
            "weights": "int8",
            "group_size": None,
            "kv": "int8",
            "window": 32,
            "sinks": 4,
            "max_chunk": 8,
        }
        | {"rewind": 4, "num_sequences": 1, "tokenizer": None, "memory_budget": "1G", "num_threads": 1, "isa": None},
    ),
    "generate": (
        lambda **given: list(_decoder().generate(**given)),
        {"prompt_ids": [1, 2], "max_new_tokens": 2, "temperature": 0.0, "top_k": 0, "top_p": 1.0, "seed": 0}
        | {"stop": [3], "sequence": 0},
    ),
    "generate_batch": (
        lambda **given: list(_decoder().generate_batch(**given)),
        {
            "prompts": [[1, 2]],
            "max_new_tokens": 2,
            "temperature": 0.0,
            "top_k": 0,
            "top_p": 1.0,
            "seed": 0,
            "stop": [3],
        },
    ),
    "logits": (lambda **given: _decoder().logits(**given), {"ids": [1, 2], "sequence": 0}),
    "prefill": (lambda **given: _decoder().prefill(**given), {"ids": [1, 2], "sequence": 0}),
    "step": (lambda **given: _decoder().step(**given), {"tokens": {0: 1}, "out": None}),
    "InferenceSession": (
        ek.InferenceSession,
        {
            "path_or_bytes": _program(),
            "sess_options": ek.SessionOptions(),
            "providers": ["CPUExecutionProvider"],
            "provider_options": None,
            "num_threads": 1,
            "isa": None,
            "verify": "full",
            "paths": None,
        },
    ),
    "run": (
        ek.InferenceSession(_program()).run,
        {"output_names": None, "input_feed": {"x": X}, "run_options": None, "out": None},
    ),
    "run, one input": (lambda x: ek.InferenceSession(_program()).run(None, {"x": x}), {"x": X}),
    "bind": (ek.InferenceSession(_program()).bind, {"inputs": {"x": X}, "outputs": None}),
    "bind, one input": (lambda x: ek.InferenceSession(_program()).bind({"x": x}), {"x": X}),
    "set_providers": (
        ek.InferenceSession(_program()).set_providers,
        {"providers": ["CPUExecutionProvider"], "provider_options": [{}]},
    ),
    "SessionOptions": (
        lambda **given: [setattr(ek.SessionOptions(), name, value) for name, value in given.items()],
        {"intra_op_num_threads": 1, "graph_optimization_level": 99, "execution_mode": 0, "enable_profiling": True}
        | {"profile_file_prefix": "p", "log_severity_level": 2, "log_verbosity_level": 0, "logid": "a"}
        | {"optimized_model_filepath": ""},
    ),
    "SessionOptions.add_session_config_entry": (
        ek.SessionOptions().add_session_config_entry,
        {"key": "a", "value": "b"},
    ),
    "SessionOptions.add_free_dimension_override_by_name": (
        ek.SessionOptions().add_free_dimension_override_by_name,
        {"name": "a", "size": 2},
    ),
    "run_with_iobinding": (
        lambda **given: _session().run_with_iobinding(**given),
        {"iobinding": _bound(), "run_options": None},
    ),
    "run_with_ort_values": (
        ek.InferenceSession(_program()).run_with_ort_values,
        {"output_names": None, "input_dict_ort_values": {"x": ek.OrtValue(X)}, "run_options": None},
    ),
    "bind_cpu_input": (lambda x: _run_bound(lambda binding: binding.bind_cpu_input("x", x)), {"x": X}),
    "bind_input": (
        lambda **given: _session().io_binding().bind_input(**given),
        {"name": "x", "device_type": "cpu", "device_id": 0, "element_type": np.float32, "shape": (4, 8)}
        | {"buffer_ptr": X.ctypes.data},
    ),
    "bind_output": (
        lambda **given: _session().io_binding().bind_output(**given),
        {"name": _session().get_outputs()[0].name, "device_type": "cpu", "device_id": 0},
    ),
    "OrtValue": (ek.OrtValue, {"array": X}),
    "OrtValue.ortvalue_from_numpy": (
        functools.partial(ek.OrtValue.ortvalue_from_numpy, X),
        {"device_type": "cpu", "device_id": 0},
    ),
    "OrtValue.ortvalue_from_shape_and_type": (
        ek.OrtValue.ortvalue_from_shape_and_type,
        {"shape": (4, 8), "element_type": np.float32, "device_type": "cpu", "device_id": 0},
    ),
    "OrtValue.from_dlpack": (lambda data: ek.OrtValue.from_dlpack(data), {"data": X}),
    "OrtValue.update_inplace": (lambda data: ek.OrtValue(X.copy()).update_inplace(data), {"data": X}),
    "set_default_logger_severity": (ek.set_default_logger_severity, {"severity": 3}),
    "Calibrator": (
        ek.Calibrator,
        {"model": _float_model(), "tensors": None, "progress": False},
    ),
    "collect": (lambda feeds: _calibrator().collect(feeds), {"feeds": {"x": X}}),
    "collect, one input": (lambda x: _calibrator().collect({"x": x}), {"x": X}),
    "collect_many": (lambda batches: _calibrator().collect_many(batches), {"batches": [{"x": X}]}),
    "compare": (
        ek.compare,
        {"float_model": _qdq_model(), "program": _program(), "data": {"x": X}},
    ),
    "cross_entropies": (lambda **given: _decoder().cross_entropies(**given), {"ids": [1, 2], "sequence": 0}),
    "perplexity": (lambda **given: _decoder().perplexity(**given), {"text": [1, 2]}),  # a text takes a tokenizer
    "stage": (lambda **given: _staged_tokens(**given), {"ids": [1, 2], "sequence": 0}),
    "Program.load": (ek.Program.load, {"source": _program().container.data, "verify": "full"}),
    "compile": (ek.compile, {"qdq": _qdq_model(), "batch": 1, "allow_host": True}),
    "quantize": (ek.quantize, {"model": _float_model(), "ranges": _collected().compute_ranges(), "config": None}),
    "compute_ranges": (
        lambda **given: _collected().compute_ranges(**given),
        {"method": "mse", "symmetric": False, "num_bits": 8, "num_bins": "auto", "percentile": 99.9, "exponent": 2.0}
        | {"skip_zeros": True},
    ),
    "Histogram": (lambda x: ek.Histogram().update(x), {"x": X}),
}


# What else a message may begin with: what a call makes on its way, and what it is a part of.
OTHERS = {
    "KVFormat": "RingKVCache",
    "RingKVCache": "KVFormat",
    "begin": "RingKVCache.stage",
    "llm.load": "RingKVCache",
    "generate_batch": "generate",
    "InferenceSession": "artifact",
    "bind_cpu_input": "bind",
    "collect_many": "Calibrator.collect",
    "run_with_ort_values": "run",
    "OrtValue.from_dlpack": "OrtValue",
    "compare": "run",
    "perplexity": "cross_entropies, encode",
    "compute_ranges": "Histogram.range",
    "Program.load": "artifact",
}


def names_of(call: str) -> list[str]:
    own = call.split(",")[0]
    classes = [f"{name}.{own}" for name in ("RingKVCache", "Calibrator")]
    steps = ["Decoder", "decoder", "RingKVCache.reset"] if "sequence" in CALLS[call][1] or own == "step" else []
    others = OTHERS.get(own, own).split(", ")
    return [own, *classes, *steps, f"{own}.update", *others, "isa=a" if "isa" in CALLS[call][1] else own]


@pytest.mark.filterwarnings("ignore:compare. program does not say which float model")
@pytest.mark.filterwarnings("ignore:Calibrator.compute_ranges. 1 of 2 tensors have less than 15 dB")
@pytest.mark.parametrize("name", CALLS)
def test_odd_arguments_give_a_result_or_an_error_that_names_the_function(name: str) -> None:
    call, good = CALLS[name]
    call(**good)
    refused = []
    for argument in good:
        for value in ODD:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # NumPy's, of dtypes that it drops
                try:
                    call(**{**good, argument: value})
                except EdgekernError as error:
                    refused.append(str(error))
                except (MemoryError, FileNotFoundError):
                    pass
    assert len(refused) > len(good), "odd arguments are taken for good ones"
    assert {message for message in refused if message.split(": ")[0] not in names_of(name)} == set()


def test_other_scalars_are_numbers_and_integers() -> None:
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    want = ek.linear(Q, PACKED, x_scale=0.25, x_zero_point=3, num_threads=2)
    for scale in (bfloat16(0.25), np.array(0.25), np.float16(0.25), Fraction(1, 4)):
        got = ek.linear(Q, PACKED, x_scale=scale, x_zero_point=np.int8(3), num_threads=np.int64(2))
        np.testing.assert_array_equal(got, want)


def test_any_number_of_threads_is_one() -> None:
    for threads in (np.int64(2), 2**40, 2**70):
        np.testing.assert_array_equal(ek.matmul_integer(Q, W, num_threads=threads), ek.matmul_integer(Q, W))
        np.testing.assert_array_equal(ek.linear(X, PACKED, num_threads=threads), ek.linear(X, PACKED))
        _cache(num_threads=threads).append(TOKENS, TOKENS)


def test_attention_takes_flags_and_windows_as_models_have_them() -> None:
    want = ek.attention(HEADS, HEADS, HEADS, causal=True)
    for window in ((None, None), (sys.maxsize, sys.maxsize), np.array([3, 3]), [2**70, 0]):
        np.testing.assert_array_equal(ek.attention(HEADS, HEADS, HEADS, causal=1, window=window), want)


def test_operators_take_arrays_that_are_not_aligned() -> None:
    aside = np.frombuffer(b"\0" + HEADS.tobytes(), np.float32, HEADS.size, offset=1).reshape(HEADS.shape)
    assert not aside.flags.aligned
    mask = np.frombuffer(bytes(1 + 9 * 4), np.float32, 9, offset=1).reshape(3, 3)
    with pytest.warns(EdgekernWarning, match="attention: . is copied, 192 bytes: it is not aligned"):
        got = ek.attention(aside, aside, aside, mask)
    np.testing.assert_array_equal(got, ek.attention(HEADS, HEADS, HEADS))
