"""llama.cpp's matrix products, called in the ggml libraries that llama-cpp-python ships.

Products of all copies form one graph; Q4_0 weights lie in the repacked buffer that llama.cpp itself would choose.
"""

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench.harness import Contender
from bench.peers import Array, Check

TYPES = {"q4_0": 2, "q8_0": 8}
# Bytes of 32 weights: one float16 scale, then the numbers.
BLOCK, BLOCK_BYTES = 32, {"q4_0": 18, "q8_0": 34}
_F32 = 0
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_new_tensor_2d": (c_void_p, (c_void_p, c_int, c_int64, c_int64)),
    "ggml_new_tensor_3d": (c_void_p, (c_void_p, c_int, c_int64, c_int64, c_int64)),
    "ggml_flash_attn_ext": (c_void_p, (c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_float, c_float, c_float)),
    "ggml_mul_mat": (c_void_p, (c_void_p, c_void_p, c_void_p)),
    "ggml_new_graph": (c_void_p, (c_void_p,)),
    "ggml_build_forward_expand": (None, (c_void_p, c_void_p)),
    "ggml_quantize_chunk": (c_size_t, (c_int, c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p)),
    "ggml_tensor_overhead": (c_size_t, ()),
    "ggml_graph_overhead": (c_size_t, ()),
    "ggml_free": (None, (c_void_p,)),
    "ggml_get_data": (c_void_p, (c_void_p,)),
    "ggml_backend_alloc_ctx_tensors_from_buft": (c_void_p, (c_void_p, c_void_p)),
    "ggml_backend_tensor_set": (None, (c_void_p, c_void_p, c_size_t, c_size_t)),
    "ggml_backend_buffer_free": (None, (c_void_p,)),
    "ggml_backend_graph_compute": (c_int, (c_void_p, c_void_p)),
    "ggml_backend_free": (None, (c_void_p,)),
    "ggml_backend_cpu_buffer_type": (c_void_p, ()),
    "ggml_backend_reg_dev_get": (c_void_p, (c_void_p, c_size_t)),
    "ggml_backend_reg_get_proc_address": (c_void_p, (c_void_p, c_char_p)),
    "ggml_backend_cpu_init": (c_void_p, ()),
    "ggml_backend_cpu_reg": (c_void_p, ()),
    "ggml_backend_cpu_set_n_threads": (None, (c_void_p, c_int)),
    "llama_print_system_info": (c_char_p, ()),
}


# A line for every tensor that it repacks is too much.
_SILENCE = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)(lambda level, text, user: None)


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", c_size_t), ("mem_buffer", c_void_p), ("no_alloc", c_bool))


@cache
def _library() -> dict[str, Any]:
    """Functions by name; importing llama_cpp itself would load tokenizers and servers."""
    spec = find_spec("llama_cpp")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("llama_cpp is not installed")
    folder = Path(spec.submodule_search_locations[0], "lib")
    names = ("ggml-base", "ggml-cpu", "ggml", "llama")
    loaded = [ctypes.CDLL(str(folder / f"lib{name}.so"), ctypes.RTLD_GLOBAL) for name in names]
    functions: dict[str, Any] = {}
    for name, (result, arguments) in _SIGNATURES.items():
        [function, *_] = [getattr(library, name) for library in loaded if hasattr(library, name)]
        function.restype, function.argtypes = result, arguments
        functions[name] = function
    [init, *_] = [library.ggml_init for library in loaded if hasattr(library, "ggml_init")]
    init.restype, init.argtypes = c_void_p, (_InitParams,)
    [log_set, *_] = [library.ggml_log_set for library in loaded if hasattr(library, "ggml_log_set")]
    log_set(_SILENCE, None)
    return functions | {"ggml_init": init}


def system_info() -> str:
    """Which instructions this build of llama.cpp uses."""
    return str(_library()["llama_print_system_info"]().decode())


def _repacked_buffers() -> int | None:
    """The buffer type whose weights are interleaved for this CPU."""
    lib = _library()
    registry = lib["ggml_backend_cpu_reg"]()
    address = lib["ggml_backend_reg_get_proc_address"](registry, b"ggml_backend_dev_get_extra_bufts")
    if not address:
        return None
    extra = ctypes.CFUNCTYPE(ctypes.POINTER(c_void_p), c_void_p)(address)(lib["ggml_backend_reg_dev_get"](registry, 0))
    return int(extra[0]) if extra and extra[0] else None


class _Graph:
    """What a graph holds, freed with it."""

    _lib: dict[str, Any]
    _contexts: list[Any]
    _buffers: list[Any]
    _graph: Any
    _backend: Any
    _results: list[Array]

    def run(self) -> list[Array]:
        if self._lib["ggml_backend_graph_compute"](self._backend, self._graph) != 0:
            raise RuntimeError("ggml could not compute the graph")
        return self._results

    def __del__(self) -> None:
        self._lib["ggml_backend_free"](self._backend)
        for buffer in self._buffers:
            self._lib["ggml_backend_buffer_free"](buffer)
        for context in self._contexts:
            self._lib["ggml_free"](context)


class _Products(_Graph):
    """A graph of products by rolled copies of w, its buffers freed with it."""

    def __init__(self, kind: str, x: Array, w: Array, copies: int, threads: int) -> None:
        lib = self._lib = _library()
        self._x, (rows, depth), columns = np.ascontiguousarray(x, np.float32), x.shape, w.shape[1]
        overhead = (2 * copies + 2) * lib["ggml_tensor_overhead"]() + lib["ggml_graph_overhead"]()
        params = _InitParams(overhead, None, True)
        self._contexts = [lib["ggml_init"](params) for _ in range(2)]
        tensors, products = self._contexts
        new = lib["ggml_new_tensor_2d"]
        packed = [new(tensors, TYPES[kind], depth, columns) for _ in range(copies)]
        plain = lib["ggml_backend_cpu_buffer_type"]()
        repacked = (_repacked_buffers() if kind == "q4_0" else None) or plain
        allocate = lib["ggml_backend_alloc_ctx_tensors_from_buft"]
        self._buffers = [allocate(tensors, repacked)]
        source = np.ascontiguousarray(w.T, np.float32)
        blocks = np.empty((columns, depth // BLOCK * BLOCK_BYTES[kind]), np.uint8)
        lib["ggml_quantize_chunk"](TYPES[kind], source.ctypes.data, blocks.ctypes.data, 0, columns, depth, None)
        for shift, tensor in enumerate(packed):
            copy = np.roll(blocks, shift, axis=0)
            lib["ggml_backend_tensor_set"](tensor, copy.ctypes.data, 0, copy.nbytes)
        left = new(products, _F32, depth, rows)
        results = [lib["ggml_mul_mat"](products, tensor, left) for tensor in packed]
        self._buffers.append(allocate(products, plain))
        lib["ggml_backend_tensor_set"](left, self._x.ctypes.data, 0, self._x.nbytes)
        self._graph = lib["ggml_new_graph"](products)
        for result in results:
            lib["ggml_build_forward_expand"](self._graph, result)
        floats = ctypes.POINTER(ctypes.c_float)
        self._results = [
            np.ctypeslib.as_array(ctypes.cast(lib["ggml_get_data"](result), floats), (rows, columns))
            for result in results
        ]
        self._backend = lib["ggml_backend_cpu_init"]()
        lib["ggml_backend_cpu_set_n_threads"](self._backend, threads)


class _Attention(_Graph):
    """A graph of flash attention by copies of K and V, its buffers freed with it."""

    def __init__(self, kinds: tuple[str, str], q: Array, k: Array, v: Array, copies: int, threads: int) -> None:
        lib = self._lib = _library()
        overhead = (3 * copies + 2) * lib["ggml_tensor_overhead"]() + lib["ggml_graph_overhead"]()
        self._contexts = [lib["ggml_init"](_InitParams(overhead, None, True)) for _ in range(2)]
        stored, results = self._contexts
        new, plain = lib["ggml_new_tensor_3d"], lib["ggml_backend_cpu_buffer_type"]()
        pairs = [self._blocks(kind, x) for kind, x in zip(kinds, (k, v), strict=True)]
        tensors = [[new(stored, TYPES[kind], *self._axes(k)) for kind in kinds] for _ in range(copies)]
        queries = new(stored, _F32, *self._axes(q))
        allocate = lib["ggml_backend_alloc_ctx_tensors_from_buft"]
        self._buffers = [allocate(stored, plain)]
        by_head = np.ascontiguousarray(q.swapaxes(0, 1))
        lib["ggml_backend_tensor_set"](queries, by_head.ctypes.data, 0, by_head.nbytes)
        for pair in tensors:
            for tensor, blocks in zip(pair, pairs, strict=True):
                lib["ggml_backend_tensor_set"](tensor, blocks.ctypes.data, 0, blocks.nbytes)
        scale = float(q.shape[2]) ** -0.5
        outs = [lib["ggml_flash_attn_ext"](results, queries, *pair, None, scale, 0.0, 0.0) for pair in tensors]
        self._buffers.append(allocate(results, plain))
        self._graph = lib["ggml_new_graph"](results)
        for out in outs:
            lib["ggml_build_forward_expand"](self._graph, out)
        floats = ctypes.POINTER(ctypes.c_float)
        self._results = [np.ctypeslib.as_array(ctypes.cast(lib["ggml_get_data"](out), floats), q.shape) for out in outs]
        self.read_bytes = sum(blocks.nbytes for blocks in pairs)
        self._backend = lib["ggml_backend_cpu_init"]()
        lib["ggml_backend_cpu_set_n_threads"](self._backend, threads)

    @staticmethod
    def _axes(x: Array) -> tuple[int, int, int]:
        tokens, heads, dim = x.shape
        return dim, tokens, heads

    def _blocks(self, kind: str, x: Array) -> Array:
        by_head = np.ascontiguousarray(x.swapaxes(0, 1), np.float32)
        blocks = np.empty(by_head.size // BLOCK * BLOCK_BYTES[kind], np.uint8)
        rows, dim = by_head.size // x.shape[2], x.shape[2]
        self._lib["ggml_quantize_chunk"](TYPES[kind], by_head.ctypes.data, blocks.ctypes.data, 0, rows, dim, None)
        return blocks


def attention(
    kinds: tuple[str, str], q: Array, k: Array, v: Array, copies: int, threads: int, check: Check
) -> Contender:
    """Queries (tokens, heads, dim) over K and V (depth, kv_heads, dim), all of which every query sees."""
    graph = _Attention(kinds, q, k, v, copies, threads)
    return Contender("llama_" + "_".join(kinds), graph.run, check, copies, graph.read_bytes)


def product(kind: str, x: Array, w: Array, copies: int, threads: int, check: Check) -> Contender:
    """float32 activations by w (K, N), quantized by llama.cpp in blocks of 32; columns rolled from copy to copy."""
    products = _Products(kind, x, w, copies, threads)
    return Contender(f"llama_{kind}", products.run, check, copies, w.size // BLOCK * BLOCK_BYTES[kind])
