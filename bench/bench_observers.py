"""Counting and the searches beside onnxruntime, torch and NumPy: ``python -m bench observers``.

One thread, one tensor. ``count`` is a histogram of all values (``np.histogram``, ``torch.histc``: 2048 bins);
``entropy`` the search over 2048 bins that were counted before (onnxruntime's
``HistogramCollector.get_entropy_threshold``); ``mse`` the range of least squared error (torch's ``HistogramObserver``;
NumPy tries 100 ranges on 100,000 of the values). A time that is missing is one that nobody offers, or of a package that
is not installed.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.distributions import Floats
from bench.harness import Contender, Row, machine, measure, print_table, version, write_json
from bench.peers import peer_threads
from edgekern.calibration import Histogram

BINS = 2048


def drawn(name: str, count: int) -> Floats:
    rng = np.random.default_rng(2026)
    if name == "Student t3":
        return rng.standard_t(3, count).astype(np.float32)
    x = rng.standard_normal(count, np.float32)
    return np.maximum(x, 0) if name == "ReLU of normal" else x


def count(x: Floats) -> Iterator[Contender]:
    def all_of_them(found: Any) -> None:
        total = found.count if isinstance(found, Histogram) else int(np.sum(np.asarray(found, np.float64)))
        # torch counts in float32, which misses some
        assert abs(total - x.size) <= x.size / 1000, f"{total} of {x.size} values"

    yield Contender("edgekern", lambda: Histogram().update(x), all_of_them)
    yield Contender("NumPy", lambda: np.histogram(x, BINS)[0], all_of_them)
    if version("torch"):
        import torch

        tensor = torch.from_numpy(x)
        yield Contender("torch", lambda: torch.histc(tensor, BINS), all_of_them)


def entropy(x: Floats) -> Iterator[Contender]:
    from onnxruntime.quantization.calibrate import HistogramCollector

    h = Histogram().update(x)
    most = h.absmax
    # Its own form: over [-absmax, absmax], an odd number of bins, as many levels.
    theirs = (*np.histogram(x, BINS + 1, (-most, most)), x.min(), x.max())
    collector = HistogramCollector("entropy", False, BINS, 128, 99.99, 0)

    def positive(found: Any) -> None:
        assert 0 < float(np.max(found)) <= 1.001 * most, found

    yield Contender("edgekern", lambda: h.threshold("entropy", num_bins=BINS), positive)
    yield Contender("onnxruntime", lambda: collector.get_entropy_threshold(theirs, 128)[1], positive)


def mse(x: Floats) -> Iterator[Contender]:
    h = Histogram().update(x)

    def error(found: tuple[float, float]) -> float:
        lo, hi = min(found[0], 0.0), max(found[1], 0.0)
        scale = np.float32((hi - lo) / 255)
        zero = np.rint(-lo / scale)
        kept = np.clip(np.rint(x[:100_000] / scale), -zero, 255 - zero) * scale
        return float(np.square(kept - x[:100_000], dtype=np.float64).mean())

    def sweep() -> tuple[float, float]:
        lo, hi = min(h.min, 0.0), h.max
        return min(((lo * f, hi * f) for f in np.linspace(0.01, 1, 100)), key=error)

    def as_good(found: tuple[float, float]) -> None:
        assert error(found) <= 1.1 * error(h.range("mse")), found

    yield Contender("edgekern", lambda: h.range("mse"), as_good)
    yield Contender("NumPy", sweep, as_good)
    if version("torch"):
        import torch
        from torch.ao.quantization import HistogramObserver

        observer = HistogramObserver()
        observer(torch.from_numpy(x))
        yield Contender(
            "torch",
            lambda: tuple(float(end) for end in observer._non_linear_param_search()),
            lambda found: None,  # its own criterion
        )


STEPS: dict[str, Callable[[Floats], Iterator[Contender]]] = {"count": count, "entropy": entropy, "mse": mse}
PEERS = ("NumPy", "onnxruntime", "torch")


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench observers", description=__doc__)
    parser.add_argument("--values", type=int, default=4_000_000)
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    with warnings.catch_warnings(), peer_threads(1):
        warnings.simplefilter("ignore", RuntimeWarning)  # onnxruntime divides by 0
        for name in ("normal", "ReLU of normal", "Student t3"):
            x = drawn(name, options.values)
            for step, contenders in STEPS.items():
                timings = measure(list(contenders(x)), seconds=0.2, min_rounds=3)
                best = {peer: 1e3 * timing.best for peer, timing in timings.items()}
                times = {f"{peer}_ms": value for peer, value in best.items()}
                ratios = {f"{peer} / edgekern": best[peer] / best["edgekern"] for peer in PEERS if peer in best}
                rows.append({"values": name, "step": step, **times, **ratios})
    print(f"{options.values} values, one thread, best of the rounds, ms")
    columns = {f"{peer}_ms": ".3f" for peer in ("edgekern", *PEERS)}
    print_table(rows, {"values": "", "step": "", **columns, **{f"{peer} / edgekern": ".0f" for peer in PEERS}})
    here = machine(["edgekern", "numpy", "onnxruntime", "torch"])
    write_json(options.json, [{**row, **here} for row in rows])
    return 0
