"""edgekern: quantize a float model to INT8, compile it to one file, run it with the same bits on every machine.

The kernels and the runtime need NumPy alone; the toolkit's rooms (calibration of models, quantize, compile, compare)
are loaded when they are first used and need ``pip install 'edgekern[toolkit]'``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from edgekern import errors
from edgekern._core import _C_API as _C_API  # PyCapsule_Import("edgekern._C_API") finds it here
from edgekern._core import __version__
from edgekern._extras import missing
from edgekern.machine import cpu_info, get_num_threads, set_num_threads
from edgekern.ops import dequantize_linear, dynamic_quantize, linear, matmul_integer, quantize_linear
from edgekern.packing import PackedWeights, interleave_gate_up, pack_weights
from edgekern.tile_plan import TileBlock, TilePlan, tile_plan

if TYPE_CHECKING:
    from edgekern import llm
    from edgekern.analysis import (
        Checklist,
        Compressed,
        CompressReport,
        Controlled,
        ErrorReport,
        Evaluation,
        Granularity,
        Pareto,
        SearchResult,
        Sensitivity,
        Validation,
        checklist,
        compare,
        compress,
        evaluate,
        granularity,
        pareto,
        quantize_to,
        search,
        sensitivity,
        validate,
    )
    from edgekern.artifact import ModelMetadata, Program
    from edgekern.calibration import Calibrator, Coverage, Histogram, Ranges, coverage, samples
    from edgekern.compiler import compile, compile_modes
    from edgekern.kvcache import KVFormat, RingKVCache
    from edgekern.llm import MemoryPlan, plan_memory
    from edgekern.memory_pool import MemoryPool, PoolStatistics
    from edgekern.native import get_cmake_dir, get_include
    from edgekern.quantization import (
        Plan,
        QuantConfig,
        awq,
        choose_ranges,
        equalize,
        quantize,
        rotate,
        smooth,
        sparsify,
    )
    from edgekern.runtime import (
        Batcher,
        Binding,
        ExecutionMode,
        ExecutionOrder,
        GraphOptimizationLevel,
        InferenceSession,
        IOBinding,
        NodeArg,
        OrtValue,
        RunOptions,
        SessionOptions,
        get_available_providers,
        get_device,
        set_default_logger_severity,
    )
    from edgekern.threadpools import register_threadpoolctl
    from edgekern.transformer import attention, rms_norm, rotary_embedding

# Public names that live in rooms which are loaded on first use.
_LAZY = {
    "Batcher": "edgekern.runtime",
    "Binding": "edgekern.runtime",
    "Calibrator": "edgekern.calibration",
    "Checklist": "edgekern.analysis",
    "CompressReport": "edgekern.analysis",
    "Compressed": "edgekern.analysis",
    "Controlled": "edgekern.analysis",
    "Coverage": "edgekern.calibration",
    "ErrorReport": "edgekern.analysis",
    "Evaluation": "edgekern.analysis",
    "ExecutionMode": "edgekern.runtime",
    "ExecutionOrder": "edgekern.runtime",
    "Granularity": "edgekern.analysis",
    "GraphOptimizationLevel": "edgekern.runtime",
    "Histogram": "edgekern.calibration",
    "IOBinding": "edgekern.runtime",
    "InferenceSession": "edgekern.runtime",
    "KVFormat": "edgekern.kvcache",
    "MemoryPool": "edgekern.memory_pool",
    "MemoryPlan": "edgekern.llm",
    "ModelMetadata": "edgekern.artifact",
    "NodeArg": "edgekern.runtime",
    "OrtValue": "edgekern.runtime",
    "Pareto": "edgekern.analysis",
    "Plan": "edgekern.quantization",
    "PoolStatistics": "edgekern.memory_pool",
    "Program": "edgekern.artifact",
    "QuantConfig": "edgekern.quantization",
    "Ranges": "edgekern.calibration",
    "RingKVCache": "edgekern.kvcache",
    "RunOptions": "edgekern.runtime",
    "SearchResult": "edgekern.analysis",
    "Sensitivity": "edgekern.analysis",
    "SessionOptions": "edgekern.runtime",
    "Validation": "edgekern.analysis",
    "attention": "edgekern.transformer",
    "awq": "edgekern.quantization",
    "checklist": "edgekern.analysis",
    "choose_ranges": "edgekern.quantization",
    "compare": "edgekern.analysis",
    "compile": "edgekern.compiler",
    "compile_modes": "edgekern.compiler",
    "compress": "edgekern.analysis",
    "coverage": "edgekern.calibration",
    "equalize": "edgekern.quantization",
    "evaluate": "edgekern.analysis",
    "get_available_providers": "edgekern.runtime",
    "get_cmake_dir": "edgekern.native",
    "get_device": "edgekern.runtime",
    "get_include": "edgekern.native",
    "granularity": "edgekern.analysis",
    "pareto": "edgekern.analysis",
    "plan_memory": "edgekern.llm",
    "quantize": "edgekern.quantization",
    "quantize_to": "edgekern.analysis",
    "register_threadpoolctl": "edgekern.threadpools",
    "rms_norm": "edgekern.transformer",
    "rotary_embedding": "edgekern.transformer",
    "rotate": "edgekern.quantization",
    "samples": "edgekern.calibration",
    "search": "edgekern.analysis",
    "sensitivity": "edgekern.analysis",
    "set_default_logger_severity": "edgekern.runtime",
    "smooth": "edgekern.quantization",
    "sparsify": "edgekern.quantization",
    "validate": "edgekern.analysis",
}

__all__ = [
    "Batcher",
    "Binding",
    "Calibrator",
    "Checklist",
    "CompressReport",
    "Compressed",
    "Controlled",
    "Coverage",
    "ErrorReport",
    "Evaluation",
    "ExecutionMode",
    "ExecutionOrder",
    "Granularity",
    "GraphOptimizationLevel",
    "Histogram",
    "IOBinding",
    "InferenceSession",
    "KVFormat",
    "MemoryPlan",
    "MemoryPool",
    "ModelMetadata",
    "NodeArg",
    "OrtValue",
    "PackedWeights",
    "Pareto",
    "Plan",
    "PoolStatistics",
    "Program",
    "QuantConfig",
    "Ranges",
    "RingKVCache",
    "RunOptions",
    "SearchResult",
    "Sensitivity",
    "SessionOptions",
    "TileBlock",
    "TilePlan",
    "Validation",
    "__version__",
    "attention",
    "awq",
    "checklist",
    "choose_ranges",
    "compare",
    "compile",
    "compile_modes",
    "compress",
    "coverage",
    "cpu_info",
    "dequantize_linear",
    "dynamic_quantize",
    "equalize",
    "errors",
    "evaluate",
    "get_available_providers",
    "get_cmake_dir",
    "get_device",
    "get_include",
    "get_num_threads",
    "granularity",
    "interleave_gate_up",
    "linear",
    "llm",
    "matmul_integer",
    "pack_weights",
    "pareto",
    "plan_memory",
    "quantize",
    "quantize_linear",
    "quantize_to",
    "register_threadpoolctl",
    "rms_norm",
    "rotary_embedding",
    "rotate",
    "samples",
    "search",
    "sensitivity",
    "set_default_logger_severity",
    "set_num_threads",
    "smooth",
    "sparsify",
    "tile_plan",
    "validate",
]


def __getattr__(name: str) -> object:
    if name != "llm" and name not in _LAZY:
        raise AttributeError(f"module 'edgekern' has no attribute {name!r}")
    try:
        if name == "llm":
            return import_module("edgekern.llm")
        value = getattr(import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if (told := missing(f"edgekern.{name}", error)) is error:
            raise
        raise told from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_LAZY) | {"llm"})
