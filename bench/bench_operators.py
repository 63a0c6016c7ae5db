"""What becomes of models in float32: ``python -m bench operators FOLDER ... [--threads 1 2] [--only TEXT ...]``.

Every ``.onnx`` file below the folders is compiled as it is, nothing quantized. A row has the operators of the model,
nodes on the host, the share of its multiply-adds that kernels do, the largest error relative to onnxruntime's result
with all rewrites off, and, interleaved, the time of a run beside onnxruntime's own (all optimizations on) and, where it
is installed, OpenVINO's in float32. Free sizes are those of ``bench coverage``, which says where real models lie.
"""

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import edgekern as ek
from bench.bench_coverage import feeds_of, inputs_of, parser_of, rows_of
from bench.harness import Contender, measure, print_table
from bench.peers import as_numpy, onnxruntime
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernError

Array = npt.NDArray[Any]
# A result is right so far from onnxruntime's, relative to the largest of its tensor.
TOLERANCE = 1e-4
_LOAD = """
import resource, sys, numpy as np, edgekern as ek
session = ek.InferenceSession(sys.argv[1], num_threads=1)
session.run(None, dict(np.load(sys.argv[2])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def error_of(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """The largest difference of all outputs, relative to the largest number of each; infinite where kinds differ."""
    worst = 0.0
    for want, got in zip(expected, found, strict=True):
        if want.dtype != got.dtype or want.shape != got.shape:
            return float("inf")
        if want.dtype.kind != "f":
            worst = max(worst, 0.0 if np.array_equal(want, got) else float("inf"))
            continue
        same = (want == got) | (np.isnan(want) & np.isnan(got))
        largest = float(np.abs(np.where(np.isfinite(want), want, 0)).max(initial=0.0)) or 1.0
        difference = np.where(same, 0, np.abs(want.astype(np.float64) - got))
        worst = max(worst, float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)) / largest)
    return worst


def go_through(path: Path, threads: Sequence[int], seconds: float) -> dict[str, object]:
    """One row."""
    row: dict[str, object] = {"model": path.name, "error": ""}
    inputs = inputs_of(path)
    shapes = {name: shape for name, (shape, _) in inputs.items()}
    feeds = feeds_of(inputs, 0)
    row["operators"] = len({node.op_type for node in onnx.load(path, load_external_data=False).graph.node})
    start = time.perf_counter()
    try:
        program = ek.compile(path, shapes=shapes)
    except (EdgekernError, OSError) as error:
        return row | {"error": " ".join(str(error).split())[:300]}
    except Exception as error:  # none may come: the row says which did
        return row | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    row["compile_s"] = time.perf_counter() - start
    host = [node for step in program.host_steps for node in step.operators]
    kernel_macs = sum(step.macs for step in program.steps)
    macs = kernel_macs + sum(step.macs for step in program.host_steps)
    row |= {
        "steps": len(program.steps),
        "host_nodes": len(host),
        "host": " ".join(f"{name}:{count}" for name, count in Counter(host).most_common()),
        "reasons": sorted({step.reason for step in program.host_steps}),
        "kernel_share": kernel_macs / macs if macs else 1.0,
    }
    expected = open_session(str(path), num_threads=1, as_written=True).run(None, feeds)
    row["relative_error"] = error_of(expected, ek.InferenceSession(program, num_threads=1).run(None, feeds))
    optimized = open_session(str(path), num_threads=1, as_written=False).run(None, feeds)
    peer_error = error_of(expected, optimized)
    row["peer_error"], allowed = peer_error, max(TOLERANCE, 2 * peer_error)  # as far as its own rewrites take it
    row |= _loaded(program, feeds)
    for count in threads:
        contenders = _contenders(program, path, feeds, expected, allowed, count)
        try:
            timings = measure(contenders, seconds=seconds)
        except AssertionError:
            return row | {"error": f"an answer is further than {allowed} from onnxruntime's"}
        for name, timing in timings.items():
            row[f"{name}_{count}_ms"] = timing.best * 1e3
        row[f"ratio_{count}"] = timings["onnxruntime"].best / timings["edgekern"].best
        if "openvino" in timings:
            row[f"openvino_ratio_{count}"] = timings["openvino"].best / timings["edgekern"].best
    return row


def _contenders(
    program: ek.Program, path: Path, feeds: dict[str, Array], expected: Sequence[Array], allowed: float, threads: int
) -> list[Contender]:
    def check(found: Sequence[Array]) -> None:
        assert error_of(expected, [as_numpy(array) for array in found]) <= allowed

    session = ek.InferenceSession(program, num_threads=threads)
    contenders = [
        Contender("edgekern", partial(session.run, None, feeds, out=session.run(None, feeds)), check),
        onnxruntime("onnxruntime", str(path), feeds, threads, check),
    ]
    try:
        contenders.append(Contender("openvino", _openvino(path, feeds, threads), check))
    except ImportError:
        pass
    except Exception as error:  # what OpenVINO cannot compile has no row of its own
        print(f"openvino: {' '.join(str(error).split())[:120]}", file=sys.stderr)
    return contenders


def _openvino(path: Path, feeds: dict[str, Array], threads: int) -> Any:
    import openvino

    core = openvino.Core()
    read = core.read_model(path)
    read.reshape({name: list(array.shape) for name, array in feeds.items()})
    hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 1}
    request = core.compile_model(read, "CPU", hints).create_infer_request()
    outputs = len(read.outputs)

    def run() -> list[Array]:
        found = request.infer(feeds)
        return [found[at] for at in range(outputs)]

    return run


def _loaded(program: ek.Program, feeds: dict[str, Array]) -> dict[str, float]:
    """Milliseconds to open the file, and MB of memory that a process has needed at most when it has run once."""
    with tempfile.TemporaryDirectory() as folder:
        file, arrays = Path(folder) / "model.ekm", Path(folder) / "feeds.npz"
        program.save(file)
        np.savez(arrays, allow_pickle=False, **feeds)
        start = time.perf_counter()
        ek.InferenceSession(file, num_threads=1)
        opened = time.perf_counter() - start
        command = [sys.executable, "-W", "ignore", "-c", _LOAD, str(file), str(arrays)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {"open_ms": opened * 1e3, "peak_mb": int(done.stdout) / 1024}


def geometric_mean(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values)))) if values else float("nan")


def main(argv: Sequence[str]) -> int:
    parser = parser_of("operators", __doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seconds", type=float, default=0.4, help="at least so long a contender")
    options = parser.parse_args(argv)
    rows = rows_of(options, partial(go_through, threads=options.threads, seconds=options.seconds))
    columns = {"model": "", "operators": "d", "steps": "d", "host_nodes": "d", "kernel_share": ".0%"}
    columns |= {"relative_error": ".1e", "peer_error": ".1e", "compile_s": ".1f", "open_ms": ".1f", "peak_mb": ".0f"}
    for count in options.threads:
        columns |= {f"edgekern_{count}_ms": ".2f", f"onnxruntime_{count}_ms": ".2f", f"ratio_{count}": ".2f"}
        columns |= {f"openvino_ratio_{count}": ".2f"}
    print_table(rows, columns)
    for row in rows:
        for text in (row["error"], row.get("host", "")):
            if text:
                print(f"{row['model']}: {text} {'; '.join(map(str, row.get('reasons', [])))}")  # type: ignore[call-overload]
    for count in options.threads:
        ratios = [float(row[f"ratio_{count}"]) for row in rows if f"ratio_{count}" in row]  # type: ignore[arg-type]
        mean = geometric_mean(ratios)
        print(f"{count} threads: geometric mean {mean:.2f} times onnxruntime over {len(ratios)} models")
    return 0 if not any(row["error"] for row in rows) else 1
