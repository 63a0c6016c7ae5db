"""Tables and plots of a run: ``python -m bench report run.json --out DIR [--format svg|png]``.

Writes ``tables.md``, one ``bars`` figure for each bench and number of threads (how fast next to the fastest peer), and
one ``roofline`` figure for each number of threads: operations for every byte of weights across, TOPS up, below the
dot-product peak and the read bandwidth that the run measured. A row measured twice counts as it was measured last.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.suite import geometric_mean

Case = dict[str, Any]
OURS, PEER, ROOF = "#0b6e99", "#c2571a", "#555555"
# Benches that a roofline shows, and their marks: those that say how many bytes of weights they read.
MARKS = {"gemm": "o", "linear": "s", "int4": "^"}


def read_run(path: Path) -> tuple[list[Case], list[Case], list[Case]]:
    """Headers, cases and facts of a file of JSON lines."""
    records = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    cases = {(r["bench"], r["group"], r["case"], r["threads"]): r for r in records if r.get("record") == "case"}
    facts = {(r["bench"], r["threads"]): r for r in records if r.get("record") == "facts"}
    return [r for r in records if r.get("record") == "run"], list(cases.values()), list(facts.values())


def _groups(cases: Sequence[Case]) -> Iterator[tuple[tuple[str, str, int], list[Case]]]:
    keys = dict.fromkeys((case["bench"], case["group"], case["threads"]) for case in cases)
    for key in keys:
        yield key, [case for case in cases if (case["bench"], case["group"], case["threads"]) == key]


def _best(case: Case, name: str | None) -> float | None:
    return None if name is None else float(case["timings"][name]["best"])


def _number(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _commits(headers: Sequence[Case]) -> str:
    """Each commit, with what ran at it."""
    ran: dict[str, list[str]] = {}
    for header in headers:
        ran.setdefault(header["commit"], []).append(header["bench"])
    return ", ".join(f"{commit} ({', '.join(benches)})" for commit, benches in ran.items())


def _seconds(case: Case, whose: str) -> float:
    """Of ``ours`` or of the ``best_peer``."""
    return float(case["timings"][case[whose]]["best"])


def headroom(cases: Sequence[Case]) -> list[str]:
    """What the means of warm products would be at the limits: a line for each that is measured and has its limit.

    ``at 97 % of the peak`` counts rows of more than one token that are slower as if they stood there. ``at the cost of
    the product alone`` counts a float or 8-bit layer as if it took no longer than the int32 product of the same sizes.
    """
    rows = {(c["bench"], c["group"], c["case"], c["threads"]): c for c in cases if c["ratio"] is not None}
    lines = []
    for (bench, group, threads), chosen in _groups(list(rows.values())):
        if bench not in ("gemm", "linear") or "warm" not in group:
            continue
        near, alone = [], []
        for case in chosen:
            ours, peer = _seconds(case, "ours"), _seconds(case, "best_peer")
            peak = max(case[when]["operations_per_second"] for when in ("before", "after"))
            one_row = case["case"].startswith("1x")
            near.append(peer / (ours if one_row else min(ours, case["operations"] / peak / 0.97)))
            product = rows.get(("gemm", "18 shapes, warm", case["case"], threads))
            if product is not None:
                alone.append(peer / _seconds(product, "ours"))
        line = f"- {bench}, {group}, {threads} thread(s): {geometric_mean(near):.2f} at 97 % of the peak"
        if bench == "linear" and len(alone) == len(chosen):
            line += f", {geometric_mean(alone):.2f} at the cost of the product alone"
        lines.append(line)
    return ["### What the limits leave: means against the fastest peer", "", *lines, ""] if lines else []


def markdown(headers: Sequence[Case], cases: Sequence[Case], facts: Sequence[Case]) -> str:
    """Every row, losing and void ones too, with a line of summary for each group."""
    lines = []
    for header in headers[-1:]:
        versions = ", ".join(f"{name} {version}" for name, version in header["versions"].items() if version)
        lines += [f"{header['cpu']}; edgekern {header['edgekern']} at {_commits(headers)}; {versions}.", ""]
    for (bench, group, threads), rows in _groups(cases):
        ratios = [row["ratio"] for row in rows if row["ratio"] is not None]
        lines += [f"### {bench}: {group}, {threads} thread{'s' if threads > 1 else ''}", ""]
        lines += [
            "| case | µs | % of peak | % of reading | fastest peer | its µs | ratio |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            cells = [
                row["case"] + (" (void)" if row["void"] else ""),
                _number(1e6 * row["timings"][row["ours"]]["best"], ".1f"),
                _number(row["%peak"], ".0f"),
                _number(row["%read"], ".0f"),
                row["best_peer"] or "-",
                _number(1e6 * (_best(row, row["best_peer"]) or 0) or None, ".1f"),
                _number(row["ratio"], ".2f"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        losing, void = sum(ratio < 1 for ratio in ratios), sum(bool(row["void"]) for row in rows)
        mean = _number(geometric_mean(ratios), ".2f")
        lines += ["", f"Geometric mean {mean}, {losing} of {len(ratios)} rows below 1, {void} void.", ""]
    lines += headroom(cases)
    for fact in facts:
        figures = {key: value for key, value in fact.items() if key not in ("record", "bench", "threads")}
        if figures:
            lines += [f"### {fact['bench']}, {fact['threads']} thread(s)", ""]
            lines += [f"- {key}: {_number(v, '.3g') if isinstance(v, float) else v}" for key, v in figures.items()]
            lines.append("")
    return "\n".join(lines)


def _bars(plt: Any, bench: str, threads: int, cases: Sequence[Case]) -> Any:
    rows = [case for case in cases if case["ratio"] is not None]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    # Groups stand below each other, two lines apart for the name of the next one.
    where = [y + 2 * groups.index(row["group"]) for y, row in enumerate(rows)]
    figure, axes = plt.subplots(figsize=(8, 1.4 + 0.2 * (where[-1] + 1)), layout="constrained")
    ratios = [row["ratio"] for row in rows]
    axes.barh(where, ratios, color=[OURS if ratio >= 1 else PEER for ratio in ratios], height=0.7)
    for y, row in zip(where, rows, strict=True):
        axes.text(row["ratio"], y, f" {row['ratio']:.2f} {row['best_peer']}", va="center", fontsize=7)
    for group in groups:
        first = next(y for y, row in zip(where, rows, strict=True) if row["group"] == group)
        axes.text(0, first - 1, f" {group}", va="center", fontsize=8, fontweight="bold")
    axes.set_yticks(where, [row["case"] + (" (void)" if row["void"] else "") for row in rows], fontsize=7)
    axes.set_ylim(where[-1] + 1, -2)
    axes.axvline(1, color=ROOF, linewidth=0.8, zorder=0)
    axes.set_xlim(0, 1.25 * max(ratios))
    axes.set_xlabel("times as fast as the fastest peer, which is named")
    axes.set_title(f"{bench}, {threads} thread{'s' if threads > 1 else ''}")
    return figure


def _intensity(case: Case) -> float:
    return float(case["operations"] / case["read_bytes"][case["ours"]])


def _scatter(axes: Any, bench: str, cases: Sequence[Case], *, rotated: bool) -> None:
    rows = [case for case in cases if case["bench"] == bench and case["rotated"] == rotated]
    for whose, color, label in (("ours", OURS, "edgekern"), ("best_peer", PEER, "fastest peer")):
        shown = [row for row in rows if row[whose]]
        if shown:
            axes.scatter(
                [_intensity(row) for row in shown],
                [row["operations"] / _seconds(row, whose) / 1e12 for row in shown],
                label=f"{label}, {bench}, weights {'from memory' if rotated else 'in caches'}",
                facecolors=color if rotated else "none",
                edgecolors=color,
                marker=MARKS[bench],
                s=26,
                zorder=3,
            )


def _roofline(plt: Any, threads: int, rows: Sequence[Case]) -> Any:
    samples = [row[when] for row in rows for when in ("before", "after")]
    peak = max(sample["operations_per_second"] for sample in samples)
    read = max(sample["bytes_per_second"] for sample in samples)
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for bench in dict.fromkeys(row["bench"] for row in rows):
        for rotated in (False, True):
            _scatter(axes, bench, rows, rotated=rotated)
    intensities = [_intensity(row) for row in rows]
    across = np.geomspace(min(intensities) / 1.5, max(intensities) * 1.5, 200)
    roof = np.minimum(peak, across * read) / 1e12
    label = f"roof: {read / 1e9:.0f} GB/s from memory, dot products at {peak / 1e12:.2f} TOPS"
    axes.plot(across, roof, color=ROOF, linewidth=1.5, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=2 * peak / 1e12)
    axes.set_xlabel("operations for each byte of weights")
    axes.set_ylabel("TOPS")
    axes.set_title(f"Roofline, {threads} thread{'s' if threads > 1 else ''}")
    axes.legend(fontsize=7, loc="lower right")
    return figure


def draw(cases: Sequence[Case], folder: Path, kind: str) -> list[Path]:
    """Write all figures; the same run gives the same bytes."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "edgekern"
    import matplotlib.pyplot as plt

    figures = {}
    for bench, threads in dict.fromkeys((case["bench"], case["threads"]) for case in cases):
        chosen = [case for case in cases if (case["bench"], case["threads"]) == (bench, threads)]
        if any(case["ratio"] is not None for case in chosen):
            figures[f"bars-{bench}-{threads}"] = _bars(plt, bench, threads, chosen)
    for threads in dict.fromkeys(case["threads"] for case in cases):
        chosen = [case for case in cases if case["threads"] == threads and case["bench"] in MARKS]
        if chosen:
            figures[f"roofline-{threads}"] = _roofline(plt, threads, chosen)
    paths = []
    for name, figure in figures.items():
        paths.append(folder / f"{name}.{kind}")
        metadata = {"Date": None} if kind == "svg" else {}
        figure.savefig(paths[-1], dpi=110, metadata=metadata)
        plt.close(figure)
    return paths


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench report", description=__doc__)
    parser.add_argument("run", type=Path, help="the file that --json wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables.md and the figures")
    parser.add_argument("--format", choices=("svg", "png"), default="svg")
    options = parser.parse_args(argv)
    headers, cases, facts = read_run(options.run)
    if not cases:
        parser.error(f"{options.run} holds no measured case")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "tables.md").write_text(markdown(headers, cases, facts))
    for path in draw(cases, options.out, options.format):
        print(path)
    return 0
