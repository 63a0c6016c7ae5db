"""Every session of onnxruntime that computes for edgekern, and waiting for it in a way that can be ended.

onnxruntime rewrites a model for speed when it opens one, and some rewrites change what it computes: a float product by
dequantized weights gets int8 activations (some 45 dB, 3 with an outlier). None of ours may: a model means what ONNX
says, in host steps, in calibration, in the float reference and at compile time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

# What keeps results as ONNX defines them; docs/operators.md, "What a host step computes", has the figures.
_EXACT = {
    "session.disable_quant_qdq": "1",  # no 8-bit product in the place of DequantizeLinear and a float operator
    "session.disable_double_qdq_remover": "1",  # two pairs of Q and DQ in a row round twice
    "session.load_model_format": "ONNX",
}

_BFLOAT16 = 16  # onnx.TensorProto's; hosts of programs have no onnx
_GRACE_S = 1.0  # onnxruntime looks for the end between nodes; one that takes longer is left behind


def open_session(
    model: bytes | str,
    *,
    num_threads: int,
    as_written: bool,
    fold: bool = False,
    spin: bool = True,
    keep_memory: bool = True,
) -> Any:
    """A quiet session on the CPU that computes what ONNX defines, whatever onnxruntime's defaults are.

    Parameters
    ----------
    model : encoded, or the path of a file
    as_written : node by node, so that a tensor has the same bits whichever others are asked for. Else onnxruntime may
        do several nodes in one, and choose its layouts, where that costs no more than float32 rounding.
    fold : whether constants are computed here, once, where nothing can end it
    spin : whether its threads wait awake, for milliseconds after their work
    keep_memory : whether it keeps what its tensors took for the next run
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = num_threads
    options.enable_cpu_mem_arena = keep_memory
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for key, value in _EXACT.items():
        options.add_session_config_entry(key, value)
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spin)))
    # It takes two draws of one operator for one.
    disabled = ["CommonSubexpressionElimination", *([] if fold else ["ConstantFolding"])]
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
    )


def ort_value(array: npt.NDArray[Any]) -> Any:
    """An array as onnxruntime holds it, which takes bfloat16 by its bits."""
    import onnxruntime

    if array.dtype.name != "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _BFLOAT16)


def run_to_end(
    session: Any, names: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]], timeout_s: float | None
) -> list[Any]:
    """``session.run(names, feeds)`` on a thread of its own, while this one waits for it, for time, and for signals.

    Costs a thread's start, some 50 us.

    Raises
    ------
    TimeoutError
        When it has not ended after ``timeout_s``; None waits for ever. It is told to stop, as on KeyboardInterrupt.
    """
    import onnxruntime

    options = onnxruntime.RunOptions()
    results: list[Any] = []
    errors: list[BaseException] = []
    ended = threading.Event()

    def work() -> None:
        try:
            given = {name: ort_value(x) if x.dtype.name == "bfloat16" else x for name, x in feeds.items()}
            results.extend(session.run(list(names), given, options))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    try:
        threading.Thread(target=work, name="edgekern-host", daemon=True).start()
        if not ended.wait(timeout_s):
            raise TimeoutError(f"onnxruntime has not ended within {timeout_s} s")
    except BaseException:
        options.terminate = True
        ended.wait(_GRACE_S)
        raise
    if errors:
        raise errors.pop()
    return results


def open_peer(model: str, *, num_threads: int) -> Any:
    """A session with onnxruntime's own options, as its users run it: to be timed, it computes nothing for edgekern.

    ``session.x64quantprecision`` would keep 8-bit sums from saturating where a CPU has no dot products of bytes, but
    halves the speed on those that have them; whoever times it looks at its answer.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = num_threads
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def bound_run(
    session: Any, feeds: Mapping[str, npt.NDArray[Any]]
) -> tuple[Callable[[], object], Callable[[], list[Any]]]:
    """A call that runs on inputs and into outputs that are bound once, and one that gives those outputs.

    Outputs of a kind or a shape that may change are made anew in each run.
    """
    binding, names = session.io_binding(), [output.name for output in session.get_outputs()]
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort_value(array))
    for name in names:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    results = binding.get_outputs()
    if all(result.is_tensor() for result in results):
        binding.clear_binding_outputs()
        for name, result in zip(names, results, strict=True):
            binding.bind_ortvalue_output(name, result)
    return lambda: session.run_with_iobinding(binding), lambda: [value.numpy() for value in binding.get_outputs()]
