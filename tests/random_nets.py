"""Random float nets through both quantizers, the compiler and the session: no crash, no wrong number.

``check_net`` takes a net of ``net_strategy`` all the way; what onnxruntime gives for the same files, every rewrite off,
is right. The long count::

    python -m tests.random_nets --count 2000
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, Phase, given, seed, settings

import edgekern as ek
from edgekern.errors import ArgumentValueError, EdgekernWarning, QuantizationError

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE)]

from net_strategy import random_nets  # noqa: E402

from graphs import Array, onnxruntime_session  # noqa: E402
from real_models import Source, quantized_by_onnxruntime  # noqa: E402

# What decides between right and wrong: ours may differ from the file's own numbers by what quantization itself makes
# of the float ones, and where that is little by luck, by a code or two of the result. What is off by a layer, a channel
# or a branch is off by its own size, which is 10 to 1,000 times that.
NOISE_FACTOR, CODES, EXACT = 2.0, 2 / 255, 1e-5
FLOAT_NOISE = 1e-4  # of a net that is compiled in float32


def check_net(model: onnx.ModelProto, batches: list[Array], *, by_onnxruntime: bool) -> str | None:
    """Take a net all the way, quantized by us or by onnxruntime. None if all is right, else why it is not a net.

    Raises
    ------
    AssertionError
        When a result is wrong, or a net that was compiled does not run.
    """
    feeds = [{"x": batch} for batch in batches]
    try:
        real = _results(model, feeds)
    except Exception as error:  # onnxruntime raises a class per status, all private
        return f"onnxruntime refuses the float net: {type(error).__name__}"
    if not all(np.isfinite(array).all() and array.size for arrays in real for array in arrays):
        return "its numbers are not finite"
    source = Source(model, feeds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        if by_onnxruntime:
            try:
                if model.opset_import[0].version < 13:  # its files of older ones are not valid
                    source = replace(source, model=onnx.version_converter.convert_version(model, 13))
                with tempfile.TemporaryDirectory() as folder:
                    qdq = quantized_by_onnxruntime(source, Path(folder), signed=False)
                truths: list[list[Array]] | None = _results(qdq, feeds)
            except Exception as error:
                return f"onnxruntime does not quantize it, or run what it wrote: {type(error).__name__}"
        else:
            try:
                calibrator = ek.Calibrator(model, progress=False).collect_many(feeds)
            except ArgumentValueError as error:
                if "onnx's version converter" in str(error):
                    return "onnx's version converter fails on it"
                raise
            try:
                qdq = ek.quantize(model, calibrator.compute_ranges())
            except QuantizationError as error:
                if "no operator to quantize" in str(error):
                    return "nothing to quantize"
                raise
            onnx.checker.check_model(qdq, full_check=True)
            truths = _results_unless_misjudged(qdq, feeds)
        free = not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        program = ek.compile(qdq, **({"batch": len(batches[0])} if free else {}))
        found = ek.InferenceSession(program).run(None, feeds[0])
    if truths is None:
        assert [result.shape for result in found] == [result.shape for result in real[0]]
        return "runs, where onnxruntime holds a body of the file to a shape that it does not give"
    for at, (name, ours) in enumerate(zip(program_outputs(program), found, strict=True)):
        theirs = truths[0][at]
        assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, onnxruntime gives {theirs.shape}"
        assert ours.dtype == theirs.dtype, f"{name}: {ours.dtype}, onnxruntime gives {theirs.dtype}"
        # Of all batches: the noise of a single number is nothing once in a while.
        exact, coded = (np.stack([results[at] for results in batch]) for batch in (real, truths))
        noise = _rms(coded - exact)
        allowed = EXACT * _rms(exact) + (NOISE_FACTOR * noise + CODES * float(np.abs(exact).max()) if noise else 0.0)
        off = _rms(ours.astype(np.float64) - theirs)
        assert off <= allowed, f"{name}: off by {off:.3g}, where quantization makes {noise:.3g}"
    return None


def check_float_net(model: onnx.ModelProto, batches: list[Array]) -> str | None:
    """Compile a net as it is, nothing quantized: the same answers, by the same numbers on one thread and two."""
    feeds = {"x": batches[0]}
    try:
        [real] = _results(model, [feeds])
    except Exception as error:  # onnxruntime raises a class per status, all private
        return f"onnxruntime refuses the float net: {type(error).__name__}"
    if not all(np.isfinite(array).all() and array.size for array in real):
        return "its numbers are not finite"
    if any(0 < _rms(array) < 1e-6 * _rms(batches[0]) for array in real):
        return "its numbers are what rounding leaves of a difference"
    free = not model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        try:
            program = ek.compile(model, **({"batch": len(batches[0])} if free else {}))
        except ArgumentValueError as error:
            if "onnx's version converter" in str(error):
                return "onnx's version converter fails on it"
            raise
        found, again = (ek.InferenceSession(program, num_threads=count).run(None, feeds) for count in (1, 2))
    for name, ours, same, theirs in zip(program_outputs(program), found, again, real, strict=True):
        assert ours.shape == theirs.shape, f"{name}: shape {ours.shape}, onnxruntime gives {theirs.shape}"
        assert ours.dtype == theirs.dtype, f"{name}: {ours.dtype}, onnxruntime gives {theirs.dtype}"
        off = _rms(ours.astype(np.float64) - theirs)
        assert off <= FLOAT_NOISE * _rms(theirs), f"{name}: off by {off:.3g} of {_rms(theirs):.3g}"
        assert program.host_steps or np.array_equal(ours, same), f"{name}: two threads give other bits than one"
    return None if not program.host_steps else "right, with host steps"


def program_outputs(program: ek.Program) -> list[str]:
    return [info.name for info in program.outputs]


def _results(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> list[list[Array]]:
    session = onnxruntime_session(model, optimized=False)
    return [list(session.run(None, feed)) for feed in feeds]


def _results_unless_misjudged(model: onnx.ModelProto, feeds: list[dict[str, Array]]) -> list[list[Array]] | None:
    """None where onnxruntime fills the result of a body as it has inferred it, and then gives another shape."""
    try:
        return _results(model, feeds)
    except Exception as error:  # onnxruntime raises a class per status, all private
        if "but the computed output shape for this run is" not in str(error):
            raise
        return None


def _rms(array: Array) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=Path, help="folder for the smallest net of each kind of failure")
    options = parser.parse_args()
    onnxruntime.set_default_logger_severity(4)
    seen: Counter[str] = Counter()
    smallest: dict[str, tuple[bytes, list[Array]]] = {}

    @settings(
        max_examples=options.count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @seed(options.seed)
    @given(net=random_nets())
    def run(net: tuple[onnx.ModelProto, list[Array]]) -> None:
        for who in ("edgekern", "onnxruntime", "float"):
            try:
                why = check_float_net(*net) if who == "float" else check_net(*net, by_onnxruntime=who == "onnxruntime")
                seen[f"{who}: {why or 'right'}"] += 1
            except Exception as error:  # the count goes on: one run shows every kind of failure
                kind = f"{who}: FAILED: {type(error).__name__}: {re.sub(r'[0-9.e-]*[0-9]', 'N', str(error))[:160]}"
                seen[kind] += 1
                model = net[0].SerializeToString()
                if kind not in smallest or len(model) < len(smallest[kind][0]):
                    smallest[kind] = model, net[1]

    run()
    for what, count in sorted(seen.items()):
        print(f"{count:6d}  {what}")
    if options.save is not None:
        options.save.mkdir(parents=True, exist_ok=True)
        for number, (kind, (model, batches)) in enumerate(sorted(smallest.items(), key=lambda item: item[0])):
            (options.save / f"{number}.onnx").write_bytes(model)
            np.savez(options.save / f"{number}.npz", *batches)
            print(f"{options.save / f'{number}.onnx'}: {kind}")
    return 1 if smallest else 0


if __name__ == "__main__":
    sys.exit(main())
