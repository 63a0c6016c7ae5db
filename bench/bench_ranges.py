"""What each method makes of a tensor: ``python -m bench ranges``.

The upper end of the range by ``mse``, by ``entropy``, and by the entropy search to the letter (the one of least
relative entropy however much it clips, and the smallest of equal ones), with the share of the nonzero values that each
clips, and the time of the entropy search at 2048 bins. Values come from ``bench/distributions.py``.
"""

import argparse
from collections.abc import Sequence

import numpy as np
from tests.reference.calibration import TIE, entropy_divergences

from bench.distributions import FEW_VALUED, ORDINARY, Floats, few_valued, ordinary
from bench.harness import Contender, Row, measure, print_table
from edgekern.calibration import Histogram

BINS = 2048


def literal_range(histogram: Histogram, num_levels: int) -> float:
    """TensorRT's definition (S7310, GTC 2017) with no bound on what is clipped, built in full for each candidate."""
    counts, edges = histogram.histogram(BINS)
    counts[0] -= np.uint64(histogram.num_zero)
    divergences = entropy_divergences(counts, num_levels, most_clipped=1)
    kept = num_levels + int(np.argmax(divergences <= divergences.min() + TIE))
    return min(histogram.absmax, (kept + 0.5) * float(edges[-1]) / BINS)


def row(group: str, name: str, x: Floats) -> Row:
    histogram = Histogram().update(x)
    nonzero = np.abs(x[x != 0])
    lo, hi = min(histogram.min, 0.0), max(histogram.max, 0.0)
    num_levels = round(256 * max(-lo, hi) / (hi - lo))
    found = {"literal": literal_range(histogram, num_levels)}
    for method in ("entropy", "mse"):
        found[method] = max(map(abs, histogram.range(method, num_bins=BINS)))
    search = Contender("search", lambda: histogram.range("entropy", num_bins=BINS), lambda _: None)
    return {
        "group": group,
        "values": name,
        "max": histogram.absmax,
        **found,
        **{f"clipped, {method}": 100 * np.mean(nonzero > end) for method, end in found.items()},
        "search_us": 1e6 * measure([search], seconds=0.05)["search"].best,
    }


def main(argv: Sequence[str]) -> int:
    argparse.ArgumentParser(prog="python -m bench ranges", description=__doc__).parse_args(argv)
    rows = [row("ordinary", name, ordinary(name)) for name in ORDINARY]
    rows += [row("few-valued", name, few_valued(name)) for name in FEW_VALUED]
    ends = dict.fromkeys(("max", "literal", "entropy", "mse"), ".4g")
    shares = {f"clipped, {method}": ".2f" for method in ("literal", "entropy", "mse")}
    print(f"upper end of the range, % of the nonzero values clipped, and microseconds of the search; {BINS} bins")
    print_table(rows, {"group": "", "values": "", **ends, **shares, "search_us": ".0f"})
    return 0
