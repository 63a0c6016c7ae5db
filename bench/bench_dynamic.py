"""What rows with a scale each are worth: ``python -m bench dynamic FOLDER ... [--threads 1 2] [--only TEXT ...]``.

Every ``.onnx`` file below the folders that has a Gemm or MatMul by a constant matrix, or an LSTM, GRU or RNN, is
quantized without calibration, by the recipe ``w8a8-dynamic`` and by onnxruntime's ``quantize_dynamic`` (int8 weights
per channel, one scale a tensor of activations, on the model that its basic optimizations have folded). A row has the
signal to noise of both to the float model, and of onnxruntime's file compiled here (``their_file``), and, interleaved,
their times beside both float runs; an answer that is none is not timed. Inputs and free sizes are those of ``bench
coverage``: random words for MiniLM.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy.typing as npt

import edgekern as ek
from bench.bench_coverage import feeds_of, inputs_of, parser_of, rows_of
from bench.harness import Contender, measure, print_table, sqnr_db
from bench.onnxruntime_quantizers import dynamic
from bench.peers import as_numpy, onnxruntime
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernError

Array = npt.NDArray[Any]
_RECIPE = ek.QuantConfig(recipe="w8a8-dynamic")
_WORST_DB = 3.0  # an answer below is no answer, and is not timed


def _db(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Of the output that has suffered most."""
    real = [(want, as_numpy(got)) for want, got in zip(expected, found, strict=True) if want.dtype.kind == "f"]
    return min((sqnr_db(want, got) for want, got in real), default=float("inf"))


def go_through(path: Path, threads: Sequence[int], seconds: float) -> dict[str, object]:
    """One row."""
    row: dict[str, object] = {"model": path.name, "error": ""}
    inputs = inputs_of(path)
    feeds = feeds_of(inputs, 0)
    shapes = {name: shape for name, (shape, _) in inputs.items()}
    try:
        program = ek.compile(ek.quantize(path, None, _RECIPE), shapes=shapes)
        in_floats = ek.compile(path, shapes=shapes)
    except (EdgekernError, OSError) as error:
        return row | {"error": " ".join(str(error).split())[:200]}
    row["products"] = sum(step.kind.endswith("_DYNAMIC") for step in program.steps)
    expected = open_session(str(path), num_threads=1, as_written=True).run(None, feeds)
    with tempfile.TemporaryDirectory() as folder:
        peer = dynamic(path, Path(folder))
    same = ek.compile(peer, shapes=shapes)

    def check(found: Sequence[Array]) -> None:
        assert _db(expected, found) >= _WORST_DB

    for count in threads:
        made = [ek.InferenceSession(one, num_threads=count) for one in (program, same, in_floats)]
        ours, theirs, floats = (partial(session.run, None, feeds, out=session.run(None, feeds)) for session in made)
        contenders = [
            Contender("edgekern", ours, check),
            Contender("their_file", theirs, check),
            onnxruntime("ort_dynamic", peer, feeds, count, check),
            Contender("float", floats, check),
            onnxruntime("ort_float", str(path), feeds, count, check),
        ]
        answers = {c.name: _db(expected, c.run()) for c in contenders[:3]}
        row |= {f"{name}_db": db for name, db in answers.items()}
        contenders = [c for c in contenders if c.name == "edgekern" or answers.get(c.name, _WORST_DB) >= _WORST_DB]
        try:
            timings = measure(contenders, seconds=seconds)
        except AssertionError:
            return row | {"error": f"an answer is below {_WORST_DB} dB"}
        row |= {f"{name}_{count}_ms": timing.best * 1e3 for name, timing in timings.items()}
    return row


def main(argv: Sequence[str]) -> int:
    parser = parser_of("dynamic", __doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=0.4, help="at least so long a contender")
    options = parser.parse_args(argv)
    rows = rows_of(options, partial(go_through, threads=options.threads, seconds=options.seconds))
    columns = {"model": "", "products": "d", "edgekern_db": ".1f", "their_file_db": ".1f", "ort_dynamic_db": ".1f"}
    for count in options.threads:
        columns |= {
            f"{name}_{count}_ms": ".2f" for name in ("edgekern", "their_file", "ort_dynamic", "float", "ort_float")
        }
    print_table([row for row in rows if not row["error"]], columns)
    for row in rows:
        if row["error"]:
            print(f"{row['model']}: {row['error']}")
    return 0
