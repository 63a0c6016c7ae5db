"""Calibration on a folder of photographs: ``python -m bench photos --model MODEL.onnx --photos FOLDER``.

Every row is a process of its own, which imports the packages, notes its peak and calibrates; the figure is how far the
peak grew. ``edgekern`` is the command line, which tries all methods; ``MinMax`` and ``Entropy`` are onnxruntime's
calibrators, fed the same arrays. Entropy keeps every activation of every picture, so it is given fewer
(``--entropy-count``). ``allowed`` is 1.2 times the model and the observed activations of one batch.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.bench_memory import _peak_bytes as peak_bytes
from bench.harness import Row, machine, print_table, version, write_json

PACKAGES = ("numpy", "onnx", "onnxruntime", "pillow")
COLUMNS = {
    "who": "s",
    "photos": "d",
    "batch": "d",
    "growth_mb": ".0f",
    "allowed_mb": ".0f",
    "seconds": ".1f",
}
WHO = ("edgekern", "MinMax", "Entropy")


def child(who: str, count: int, options: argparse.Namespace, scratch: Path) -> None:
    """Calibrate, and print what it took."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import PIL.Image  # noqa: F401

    import edgekern as ek
    from edgekern import cli
    from edgekern.cli import app, samples  # noqa: F401

    warnings.simplefilter("ignore", ek.errors.EdgekernWarning)
    how = ["--samples", str(count), "--batch", str(options.batch), *options.how]
    before, start = peak_bytes(), time.perf_counter()
    if who == "edgekern":
        ranges = scratch / "ranges.json"
        if cli.run(["calibrate", str(options.model), str(options.photos), "-o", str(ranges), *how]):
            raise SystemExit(1)
    else:
        _onnxruntime(who, count, options, scratch)
    print(json.dumps({"growth_mb": (peak_bytes() - before) / 1e6, "seconds": time.perf_counter() - start}))


def _onnxruntime(who: str, count: int, options: argparse.Namespace, scratch: Path) -> None:
    from onnxruntime.quantization import calibrate

    import edgekern as ek

    said = ek.Ranges.load(scratch / "ranges.json").preprocessing
    given = ek.samples(options.photos, options.model, batch=options.batch, limit=count, preprocessing=said)
    feeds = iter(given)

    class Reader(calibrate.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            return next(feeds, None)

    made = calibrate.create_calibrator(
        options.model,
        augmented_model_path=str(scratch / "augmented.onnx"),
        calibrate_method=getattr(calibrate.CalibrationMethod, who),
    )
    made.collect_data(Reader())
    made.compute_data()


def measure(options: argparse.Namespace, scratch: Path) -> Iterator[Row]:
    for who in WHO:
        count = min(options.count, options.entropy_count) if who == "Entropy" else options.count
        again = [*("--model", options.model), *("--photos", options.photos), *("--batch", options.batch)]
        command = [*("--child", who, count, scratch), *again, "--how", *options.how]
        done = subprocess.run(
            [sys.executable, "-m", "bench", "photos", *map(str, command)], capture_output=True, text=True, check=False
        )
        row: dict[str, Any] = {"who": who, "photos": count, "batch": options.batch}
        if done.returncode == 0:
            row |= json.loads(done.stdout.splitlines()[-1])
        else:
            print(f"{who}: failed: {(done.stderr.splitlines() or ['killed'])[-1][:300]}")
        if who == "edgekern" and done.returncode == 0:
            row["allowed_mb"] = 1.2 * (options.model.stat().st_size + _batch_bytes(scratch, count, options)) / 1e6
        yield row


def _batch_bytes(scratch: Path, count: int, options: argparse.Namespace) -> float:
    """Bytes that the observed tensors of one batch have."""
    tensors = json.loads((scratch / "ranges.json").read_text())["tensors"].values()
    values = sum(int(entry["count"]) for entry in tensors)
    return 4.0 * values / count * float(min(options.batch, count))


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench photos", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a float ONNX file that takes pictures")
    parser.add_argument("--photos", type=Path, required=True, help="a folder of them")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--entropy-count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument(
        "--how", nargs=argparse.REMAINDER, default=["--preset", "imagenet"], help="options of edgekern calibrate, last"
    )
    options = parser.parse_args(argv)
    if options.child:
        who, count, scratch = options.child
        child(who, int(count), options, Path(scratch))
        return 0
    host = {"edgekern": version("edgekern"), **machine(PACKAGES)}
    print(*(f"{key}: {fact}" for key, fact in host.items()), sep="; ")
    with tempfile.TemporaryDirectory() as folder:
        rows = list(measure(options, Path(folder)))
    print_table(rows, COLUMNS)
    write_json(options.json, [{"record": "run", "bench": "photos", **host}, *({"record": "photos", **r} for r in rows)])
    return int(any("growth_mb" not in row for row in rows))
