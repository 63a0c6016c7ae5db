"""What each choice of thresholds costs at a model's outputs: ``python -m bench thresholds FOLDER ...``.

Every ``.onnx`` file below the folders is calibrated once; each method then gives ranges of the same counts, and an
8-bit model that runs on edgekern's core. A row has the signal to noise of its worst output by each method, in dB, what
``mse``, ``auto`` and ``choose_ranges`` lose to the best, and the CPU seconds that the last two take. Half of the inputs
calibrate, the other half is scored (``bench.real_inputs``; random numbers where a model is not known, and the row says
so). Above 50 dB, where 8 bits of an output end, methods count as equal.
"""

import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import edgekern as ek
from bench.bench_coverage import inputs_of, parser_of, rows_of
from bench.bench_quantized import worst_db
from bench.harness import print_table
from bench.real_inputs import feeds_for, split
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernError, EdgekernWarning

METHODS: dict[str, dict[str, Any]] = {
    "max": {"method": "max"},
    "99.9": {"method": "percentile", "percentile": 99.9},
    "99.99": {"method": "percentile", "percentile": 99.99},
    "99.999": {"method": "percentile", "percentile": 99.999},
    "mse": {"method": "mse"},
    "p-norm": {"method": "p-norm"},
    "p-norm 3": {"method": "p-norm", "exponent": 3.0},
    "entropy": {"method": "entropy"},
    "two-sided": {"method": "entropy-two-sided"},
    "auto": {"method": "auto"},
    "choose": {},  # edgekern.choose_ranges
}
JUDGED = ("mse", "auto", "choose")
MOST_LOST, ENOUGH = 3.0, 50.0  # dB


def go_through(path: Path, samples: int) -> dict[str, Any]:
    row: dict[str, Any] = {"model": path.name, "error": ""}
    shapes = {name: shape for name, (shape, _) in inputs_of(path).items()}
    feeds, real = feeds_for(path, samples)
    row["inputs"] = "real" if real else "random"
    calibration, scored = split(feeds)
    warnings.simplefilter("ignore", EdgekernWarning)
    try:
        calibrator = ek.Calibrator(path, shapes=shapes, progress=False).collect_many(calibration)
        truth = open_session(str(path), num_threads=1, as_written=True)
        wanted = [truth.run(None, dict(feed)) for feed in scored]
        for name, options in METHODS.items():
            start = time.process_time()
            chosen = ek.choose_ranges(calibrator, path, shapes=shapes) if name == "choose" else None
            ranges = chosen or calibrator.compute_ranges(**options)
            row[f"{name}_s"] = time.process_time() - start
            program = ek.compile(ek.quantize(path, ranges, shapes=shapes), shapes=shapes)
            session = ek.InferenceSession(program, num_threads=1)
            row[name] = worst_db(wanted, [session.run(None, dict(feed)) for feed in scored])
    except (EdgekernError, OSError) as error:
        return row | {"error": " ".join(str(error).split())[:300]}
    best = min(max(row[name] for name in METHODS), ENOUGH)
    return row | {f"{name} loses": max(best - row[name], 0.0) for name in JUDGED}


def main(argv: Sequence[str]) -> int:
    parser = parser_of("thresholds", __doc__)
    parser.add_argument("--samples", type=int, default=64, help="inputs of each model; half of them calibrate")
    options = parser.parse_args(argv)
    rows = rows_of(options, partial(go_through, samples=options.samples))
    lost = {f"{name} loses": ".1f" for name in JUDGED} | {"auto_s": ".1f", "choose_s": ".1f"}
    print_table(rows, {"model": "", "inputs": "", **dict.fromkeys(METHODS, ".1f"), **lost})
    for name in JUDGED:
        far = [str(row["model"]) for row in rows if float(str(row.get(f"{name} loses", 0))) > MOST_LOST]
        print(f"{name}: more than {MOST_LOST} dB below the best method on {len(far)} of {len(rows)}: {', '.join(far)}")
    for row in rows:
        if row["error"]:
            print(f"{row['model']}: {row['error']}")
    return 0
