"""Calibrate, quantize, compile, run, compare: each step is one public call, timed and reported."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from edgekern import files
from edgekern._arguments import file_path
from edgekern._extras import install
from edgekern.analysis import compare
from edgekern.calibration import Calibrator
from edgekern.compiler import compile as compile_program
from edgekern.errors import EdgekernError
from edgekern.machine import cpu_info
from edgekern.quantization import quantize
from edgekern.quickstart.digits import INPUTS, MODEL, Digits, load_digits
from edgekern.runtime import InferenceSession

CALIBRATION_BATCH = 64
COMPARED_DIGITS = 64
LATENCY_ROUNDS = 30
CALLS_PER_ROUND = 10

PYTHON = """\
import edgekern as ek
calibrator = ek.Calibrator("model.onnx")            # then calibrator.collect({"image": batch}) for each batch
ek.compile(ek.quantize("model.onnx", ek.choose_ranges(calibrator, "model.onnx"))).save("model.ekm")
[logits] = ek.InferenceSession("model.ekm").run(["logits"], {"image": image})"""


@dataclass(frozen=True)
class LayerRow:
    """How one layer of the compiled program really ran: INT8 against float."""

    name: str
    op: str
    path: str
    sqnr_db: float


@dataclass(frozen=True)
class QuickstartResult:
    """Everything that the quickstart measures; ``str()`` is the report."""

    held_out: int
    float_accuracy: float
    int8_accuracy: float
    agreement: float
    onnx_bytes: int
    ekm_bytes: int
    arena_bytes: int
    onnxruntime_us: float
    edgekern_us: float
    isa: str
    layers: tuple[LayerRow, ...]
    seconds: float

    def __str__(self) -> str:
        rows = [
            ("", "float32 (onnxruntime)", "INT8 (edgekern)"),
            ("accuracy", f"{self.float_accuracy:.2%}", f"{self.int8_accuracy:.2%}"),
            ("same answer as float", "", f"{self.agreement:.2%}"),
            ("file", f"{self.onnx_bytes / 1024:.1f} KiB", f"{self.ekm_bytes / 1024:.1f} KiB"),
            ("latency, 1 image, 1 thread", f"{self.onnxruntime_us:.1f} us", f"{self.edgekern_us:.1f} us"),
            ("arena", "", f"{self.arena_bytes} bytes"),
        ]
        width = max(len(row.name) for row in self.layers)
        return "\n".join(
            [
                f"{self.held_out} held-out handwritten digits, INT8 on {self.isa}",
                "",
                *(f"{name:<28}{before:>24}{after:>20}" for name, before, after in rows),
                "",
                "INT8 against float, layer by layer as it ran, worst first",
                f"{'layer':<{width}}  {'operator':<20}{'SQNR dB':>8}  path",
                *(f"{row.name:<{width}}  {row.op:<20}{row.sqnr_db:>8.1f}  {row.path}" for row in self.layers),
                "",
                f"calibrated, quantized, compiled and measured in {self.seconds:.1f} s; the same in Python:",
                "",
                PYTHON,
            ]
        )


def run(*, save: Path | str | None = None, num_threads: int = 1) -> QuickstartResult:
    """Do the main job on the embedded digits.

    Parameters
    ----------
    save : path, optional
        Where ``digits.ekm`` is kept; None writes it to a temporary folder.
    num_threads : int
        Threads of both runtimes while latency is measured.

    Returns
    -------
    QuickstartResult

    Raises
    ------
    EdgekernError
        When the toolkit extra is absent, or the file cannot be written.
    """
    if save is not None:
        files.check_target(save, function="quickstart", inputs=INPUTS)
    start = time.perf_counter()
    train, held_out = load_digits()
    calibrator = Calibrator(MODEL, progress=False)
    calibrator.collect_many(train.feeds(CALIBRATION_BATCH))
    program = compile_program(quantize(MODEL, calibrator.compute_ranges()), allow_host=False)

    with tempfile.TemporaryDirectory() as folder:
        path = file_path("quickstart", "save", save) if save is not None else Path(folder) / "digits.ekm"
        program.save(path)
        ekm_bytes = path.stat().st_size
        session = InferenceSession(path, num_threads=num_threads)
    float_run = _onnxruntime(num_threads)

    def int8_run(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        [logits] = session.run(["logits"], {"image": image})
        return logits

    float_logits, int8_logits = _logits(float_run, held_out), _logits(int8_run, held_out)
    float_us, int8_us = _latencies(float_run, int8_run, held_out.images[:1])
    report = compare(MODEL, program, list(held_out.feeds())[:COMPARED_DIGITS])
    return QuickstartResult(
        held_out=len(held_out),
        float_accuracy=held_out.accuracy(float_logits),
        int8_accuracy=held_out.accuracy(int8_logits),
        agreement=float(np.mean(float_logits.argmax(1) == int8_logits.argmax(1))),
        onnx_bytes=MODEL.stat().st_size,
        ekm_bytes=ekm_bytes,
        arena_bytes=session.arena_bytes,
        onnxruntime_us=float_us,
        edgekern_us=int8_us,
        isa=str(cpu_info()["isa"]),
        layers=tuple(LayerRow(row.name, row.op, row.path, row.sqnr_db) for row in report.rows),
        seconds=time.perf_counter() - start,
    )


Run = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def _onnxruntime(num_threads: int) -> Run:
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise EdgekernError(f"quickstart: onnxruntime is needed; {install('toolkit')}") from error
    # With onnxruntime's own options, unlike every other session: it is the peer that is timed, as users run it.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])

    def run_float(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        [logits] = session.run(["logits"], {"image": image})
        return np.asarray(logits, np.float32)

    return run_float


def _logits(run_one: Run, digits: Digits) -> npt.NDArray[np.float32]:
    return np.concatenate([run_one(feeds["image"]) for feeds in digits.feeds()])


def _latencies(float_run: Run, int8_run: Run, image: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Median microseconds a call; the two take turns, so that a busy moment hits both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(LATENCY_ROUNDS):
        for run_one, spent in zip((float_run, int8_run), times, strict=True):
            start = time.perf_counter()
            for _ in range(CALLS_PER_ROUND):
                run_one(image)
            spent.append((time.perf_counter() - start) / CALLS_PER_ROUND * 1e6)
    return median(times[0]), median(times[1])
