"""What quantization does to real models: ``python -m bench quantized FOLDER ... [--threads 1 2] [--only TEXT ...]``.

Every ``.onnx`` file below the folders is calibrated, quantized by default and compiled. A row has the share of its
multiply-adds on integer kernels, nodes on the host, the signal to noise of the worst output to the float model beside
onnxruntime's own quantizers (``quantize_static`` from the same data, ``quantize_dynamic``), and, interleaved, the time
of a run beside onnxruntime's fastest of float, static and dynamic, and OpenVINO on the very QDQ file. Half of the
inputs calibrate, the other half is scored: pictures, pages, sentences and a voice where the model is known
(``bench.real_inputs``), else random numbers, and the row says so.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import edgekern as ek
from bench.bench_coverage import inputs_of, parser_of, rows_of
from bench.bench_operators import geometric_mean
from bench.harness import Contender, measure, print_table, sqnr_db
from bench.onnxruntime_quantizers import dynamic, static
from bench.peers import NO_SATURATION, as_numpy, onnxruntime
from bench.real_inputs import Feeds, feeds_for, split
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernError

Array = npt.NDArray[Any]
_NO_ANSWER = 3.0  # dB: what is below is not timed as a peer


def _session(model: bytes | str) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.add_session_config_entry(*NO_SATURATION)
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def worst_db(wanted: Sequence[Sequence[Array]], found: Sequence[Sequence[Array]]) -> float:
    """Of the output that has suffered most, over all runs."""
    outputs = zip(zip(*wanted, strict=True), zip(*found, strict=True), strict=True)
    joined = [tuple(np.concatenate([np.ravel(a) for a in part]) for part in pair) for pair in outputs]
    return min((sqnr_db(want, got) for want, got in joined if want.dtype.kind == "f"), default=float("inf"))


def go_through(path: Path, threads: Sequence[int], seconds: float, samples: int) -> dict[str, object]:
    """One row."""
    row: dict[str, object] = {"model": path.name, "error": ""}
    shapes = {name: shape for name, (shape, _) in inputs_of(path).items()}
    feeds, real = feeds_for(path, samples)
    row["inputs"] = "real" if real else "random"
    calibration, scored = split(feeds)
    try:
        ranges = ek.Calibrator(path, shapes=shapes, progress=False).collect_many(calibration).compute_ranges()
        qdq = ek.quantize(path, ranges, shapes=shapes)
        program = ek.compile(qdq, shapes=shapes)
    except (EdgekernError, OSError) as error:
        return row | {"error": " ".join(str(error).split())[:300]}
    macs = sum(program.multiply_adds.values())
    integer = program.multiply_adds["8 bits"]
    row |= {"int8_share": integer / macs if macs else 1.0, "host_nodes": sum(len(s.nodes) for s in program.host_steps)}
    truth = open_session(str(path), num_threads=1, as_written=True)
    wanted = [truth.run(None, dict(feed)) for feed in scored]
    ours = ek.InferenceSession(program, num_threads=1)
    row["edgekern_db"] = worst_db(wanted, [ours.run(None, dict(feed)) for feed in scored])
    peers = {}
    with tempfile.TemporaryDirectory(prefix="edgekern-bench-") as folder:
        for name, write in (("static", partial(static, feeds=calibration)), ("dynamic", dynamic)):
            try:
                peers[name] = write(path, Path(folder))
                _session(peers[name]).run(None, dict(calibration[0]))
            except Exception as error:  # whatever its quantizer or its session raises: the row has no figure
                peers.pop(name, None)
                print(f"{path.name}: onnxruntime {name}: {' '.join(str(error).split())[:120]}")
    for name, model in peers.items():
        session = _session(model)
        row[f"{name}_db"] = worst_db(wanted, [session.run(None, dict(feed)) for feed in scored])
    for count in threads:
        row |= _times(program, path, qdq, peers, row, scored[0], wanted[0], count, seconds)
    return row


def _times(
    program: ek.Program,
    path: Path,
    qdq: onnx.ModelProto,
    peers: dict[str, bytes],
    row: dict[str, object],
    feeds: Feeds,
    wanted: Sequence[Array],
    threads: int,
    seconds: float,
) -> dict[str, object]:
    def check(found: Sequence[Array]) -> None:
        assert all(as_numpy(got).shape == want.shape for want, got in zip(wanted, found, strict=True))

    session = ek.InferenceSession(program, num_threads=threads)
    contenders = [
        Contender("edgekern", partial(session.run, None, feeds, out=session.run(None, feeds)), check),
        onnxruntime("float", str(path), feeds, threads, check),
    ]
    for name, model in peers.items():
        if float(row[f"{name}_db"]) >= _NO_ANSWER:  # type: ignore[arg-type]
            contenders.append(onnxruntime(name, model, feeds, threads, check))
    contenders += _openvino(qdq, feeds, threads, check)
    timings = measure(contenders, seconds=seconds)
    best = min(timings.keys() - {"edgekern", "openvino"}, key=lambda name: timings[name].best)
    mine = timings["edgekern"].best
    times: dict[str, object] = {f"{name}_{threads}_ms": timing.best * 1e3 for name, timing in timings.items()}
    times |= {f"best_{threads}": best, f"ratio_{threads}": timings[best].best / mine}
    if "openvino" in timings:
        times[f"openvino_ratio_{threads}"] = timings["openvino"].best / mine
    return times


def _openvino(qdq: onnx.ModelProto, feeds: Feeds, threads: int, check: Callable[[Any], None]) -> Iterator[Contender]:
    try:
        import openvino
    except ImportError:
        return
    try:
        core = openvino.Core()
        read = core.read_model(qdq.SerializeToString())
        read.reshape({name: list(array.shape) for name, array in feeds.items()})
        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
        request = core.compile_model(read, "CPU", hints).create_infer_request()
        outputs = len(read.outputs)
    except Exception as error:  # what OpenVINO cannot compile has no row of its own
        print(f"openvino: {' '.join(str(error).split())[:120]}")
        return

    def run() -> list[Array]:
        found = request.infer(feeds)
        return [found[at] for at in range(outputs)]

    yield Contender("openvino", run, check)


def main(argv: Sequence[str]) -> int:
    parser = parser_of("quantized", __doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1], help="none: accuracy alone")
    parser.add_argument("--seconds", type=float, default=0.4, help="at least so long a contender")
    parser.add_argument("--samples", type=int, default=16, help="inputs of each model; half of them calibrate")
    options = parser.parse_args(argv)
    fixed = {"threads": options.threads, "seconds": options.seconds, "samples": options.samples}
    rows = rows_of(options, partial(go_through, **fixed))
    columns = {"model": "", "inputs": "", "int8_share": ".0%", "host_nodes": "d"}
    columns |= {f"{name}_db": ".1f" for name in ("edgekern", "static", "dynamic")}
    for count in options.threads:
        columns |= {f"edgekern_{count}_ms": ".2f", f"best_{count}": "", f"ratio_{count}": ".2f"}
        columns |= {f"openvino_ratio_{count}": ".2f"}
    print_table(rows, columns)
    for row in rows:
        if row["error"]:
            print(f"{row['model']}: {row['error']}")
    for count in options.threads:
        for name in ("ratio", "openvino_ratio"):
            ratios = [float(row[f"{name}_{count}"]) for row in rows if f"{name}_{count}" in row]  # type: ignore[arg-type]
            print(f"{count} threads: {name}: geometric mean {geometric_mean(ratios):.2f} over {len(ratios)} models")
    return 0 if not any(row["error"] for row in rows) else 1
