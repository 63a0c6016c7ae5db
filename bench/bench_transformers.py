"""What methods for transformers make of a model: ``python -m bench transformers MODEL.onnx ... [--pairs N]``.

A model is MiniLM, with ``tokenizer.json`` beside it, or a net of ``bench small_nets``, with its ``.npz``. A row is a
recipe and what was done to the float model, or to scales of groups, before: SmoothQuant at 0.5 and at the best power of
each activation, with a Mul (``+mul``) where nothing takes its factors; scales by least squares and by HQQ; AWQ;
rotation; and two of them together. Signal to noise is that of all outputs on samples that were not calibrated on; then
the share of answers that are right, or Spearman on the first ``--pairs`` of the STS benchmark's development set. All
run in compiled programs. ``changed`` counts layers by constant weights that are not what they were. Sparse models are
float32, with the size of the file as gzip packs it.
"""

import argparse
import gzip
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper, version_converter

import edgekern as ek
from bench.bench_sentences import edgekern_runs, load_pairs, similarities, spearman
from bench.datasets import Array
from bench.harness import Row, machine, print_table, write_json
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernWarning, QuantizationError

COLUMNS = {"model": "s", "recipe": "s", "method": "s", "changed": "", "db": ".1f", "figure": ".4f", "gzip_mb": ".2f"}
CALIBRATION, JUDGED = 64, 60  # sentences
_LENGTHS = (16, 32, 64, 128)
_BLOCKS = 21  # the first opset in which groups need not divide a depth

Model = onnx.ModelProto
Prepare = Callable[[Model, Sequence[Mapping[str, Array]], ek.QuantConfig], Model]


class Method(NamedTuple):
    """What is done to a float model, and the configuration's scales of groups."""

    name: str
    prepare: Prepare
    scales: str = "max"


def _plain(model: Model, samples: Any, config: Any) -> Model:
    return model


def _smooth(alpha: Any, insert: bool) -> Prepare:
    return lambda model, samples, config: ek.smooth(model, samples, alpha=alpha, insert=insert)


def _awq(insert: bool) -> Prepare:
    return lambda model, samples, config: ek.awq(model, samples, config, insert=insert)


def _rotate(model: Model, samples: Any, config: Any) -> Model:
    return ek.rotate(model)


def _rotated_awq(model: Model, samples: Any, config: Any) -> Model:
    return ek.awq(ek.rotate(model), samples, config, insert=True)


def _rotated_smooth(model: Model, samples: Any, config: Any) -> Model:
    return ek.smooth(ek.rotate(model), samples, alpha="auto", insert=True)


PLAIN = Method("plain", _plain)
SMOOTH = (
    Method("smooth 0.5", _smooth(0.5, False)),
    Method("smooth 0.5 +mul", _smooth(0.5, True)),
    Method("smooth auto", _smooth("auto", False)),
    Method("smooth auto +mul", _smooth("auto", True)),
)
ROTATE = Method("rotate", _rotate)
GROUPS = (
    PLAIN,
    Method("mse", _plain, "mse"),
    Method("hqq", _plain, "hqq"),
    Method("awq", _awq(False)),
    Method("awq +mul", _awq(True)),
    Method("awq +mul, mse", _awq(True), "mse"),
    ROTATE,
    Method("rotate, mse", _rotate, "mse"),
    Method("rotate, hqq", _rotate, "hqq"),
    Method("rotate, awq +mul", _rotated_awq),
)
CASES: dict[str, tuple[Method, ...]] = {
    "auto": (PLAIN, SMOOTH[2], SMOOTH[3], ROTATE),
    "w8a8": (PLAIN, *SMOOTH, ROTATE, Method("rotate, smooth auto +mul", _rotated_smooth)),
    "w8a8-dynamic": (PLAIN, SMOOTH[3], ROTATE),
    "w4a8-g32": GROUPS,
    "w4a8-g128": GROUPS,
}
SPARSE: dict[str, dict[str, Any]] = {
    "magnitude 50 %": {"sparsity": 0.5},
    "wanda 50 %": {"method": "wanda", "sparsity": 0.5},
    "magnitude 2:4": {"pattern": "2:4"},
    "wanda 2:4": {"method": "wanda", "pattern": "2:4"},
}


class Task:
    """A model, what it is calibrated on, and how good others are beside it."""

    def __init__(self, path: Path, pairs: int) -> None:
        self.name, self.model = path.stem, onnx.load(path)
        if self.model.opset_import[0].version < _BLOCKS:
            self.model = version_converter.convert_version(self.model, _BLOCKS)
        self.samples, self.judged = self._read(path, pairs)
        self.wanted = [self._trimmed(feeds, run) for feeds, run in self._runs(None)]

    def _read(self, path: Path, pairs: int) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
        with np.load(path.with_suffix(".npz")) as data:
            given, judged, self.labels = data["calibration"], data["judged"], data["labels"]
        name = self.model.graph.input[0].name
        return [{name: given[at : at + 1]} for at in range(len(given))], [{name: x[None]} for x in judged]

    def measure(self, model: Model | None) -> dict[str, float]:
        found = [self._trimmed(feeds, run) for feeds, run in self._runs(model)]
        noise = sum(float(np.square(a - b, dtype=np.float64).sum()) for a, b in zip(self.wanted, found, strict=True))
        power = sum(float(np.square(a, dtype=np.float64).sum()) for a in self.wanted)
        db = float(10 * np.log10(power / noise)) if noise else float("inf")
        return {"db": db, "figure": self._figure(model, found)}

    def _figure(self, model: Model | None, found: list[Array]) -> float:
        return float(np.mean([x.argmax() == label for x, label in zip(found, self.labels, strict=True)]))

    def _runs(self, model: Model | None) -> list[tuple[dict[str, Array], Array]]:
        """What each judged sample becomes in a program of the model; in onnxruntime where it is the float one."""
        if model is None:
            session = open_session(self.model.SerializeToString(), num_threads=1, as_written=True)
            return [(feeds, session.run(None, feeds)[0]) for feeds in self.judged]

        @cache
        def of_shapes(shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> ek.InferenceSession:
            return ek.InferenceSession(ek.compile(model, shapes=dict(shapes)), num_threads=1)

        return [
            (feeds, of_shapes(tuple((name, x.shape) for name, x in feeds.items())).run(None, feeds)[0])
            for feeds in self.judged
        ]

    def _trimmed(self, feeds: Mapping[str, Array], made: Array) -> Array:
        return made


class Sentences(Task):
    """MiniLM."""

    def _read(self, path: Path, pairs: int) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
        self.tokenizer.no_padding()
        every = [sentence for pair in load_pairs()[0] for sentence in pair]
        self.pairs = load_pairs(pairs) if pairs else None
        feeds = [self._feeds(sentence) for sentence in (*every[-CALIBRATION:], *every[:JUDGED])]
        return feeds[:CALIBRATION], feeds[CALIBRATION:]

    def _feeds(self, sentence: str) -> dict[str, Array]:
        ids = self.tokenizer.encode(sentence).ids[: _LENGTHS[-1]]
        length = next(size for size in _LENGTHS if size >= len(ids))
        mask = (np.arange(length) < len(ids)).astype(np.int64)
        return {"input_ids": np.array([ids + [0] * (length - len(ids))]), "attention_mask": mask[None]}

    def _trimmed(self, feeds: Mapping[str, Array], made: Array) -> Array:
        return made[0, : int(feeds["attention_mask"].sum())]

    def _figure(self, model: Model | None, found: list[Array]) -> float:
        if self.pairs is None:
            return float("nan")
        runs = edgekern_runs(self.model if model is None else model)
        return spearman(similarities(self.pairs[0], self.tokenizer, runs), self.pairs[1])


def rows_of(task: Task, recipe: str, methods: Sequence[Method]) -> list[Row]:
    """A row for each method; one without figures where there is nothing that it could do."""
    rows: list[Row] = []
    for method in methods:
        config = ek.QuantConfig(recipe=recipe, group_scales=method.scales)  # type: ignore[arg-type]
        row: Row = {"model": task.name, "recipe": recipe, "method": method.name}
        try:
            prepared = method.prepare(task.model, task.samples, config)
        except QuantizationError as error:
            rows.append({**row, "changed": 0, "db": float("nan"), "figure": float("nan"), "said": str(error)})
            continue
        ranges = None
        if recipe in ("auto", "w8a8"):
            ranges = ek.Calibrator(prepared, progress=False).collect_many(task.samples).compute_ranges()
        made = task.measure(ek.quantize(prepared, ranges, config))
        rows.append({**row, "changed": _changed(task.model, prepared), **made})
        print(f"{task.name}, {recipe}, {method.name}: {made['db']:.1f} dB", file=sys.stderr, flush=True)
    return rows


def sparse_rows(task: Task) -> list[Row]:
    """Float models with zeros, and the one without."""
    rows: list[Row] = []
    for name, options in {"": {}, **SPARSE}.items():
        given = {**options, **({"samples": task.samples} if options.get("method") == "wanda" else {})}
        row: Row = {"model": task.name, "recipe": "float32", "method": name or "plain"}
        try:
            made = ek.sparsify(task.model, **given) if name else task.model
        except QuantizationError as error:
            rows.append({**row, "changed": 0, "db": float("nan"), "figure": float("nan"), "said": str(error)})
            continue
        packed = len(gzip.compress(made.SerializeToString(), 6)) / 1e6
        measured = task.measure(made if name else None)
        rows.append({**row, "changed": _changed(task.model, made), **measured, "gzip_mb": packed})
        print(f"{task.name}, {row['method']}: {measured['db']:.1f} dB", file=sys.stderr, flush=True)
    return rows


def _changed(before: Model, after: Model) -> int:
    """Matrices that are not what they were, by their bytes, and moved or not."""
    known = {numpy_helper.to_array(tensor).tobytes() for tensor in before.graph.initializer}
    known |= {numpy_helper.to_array(tensor).T.tobytes() for tensor in before.graph.initializer}
    arrays = [numpy_helper.to_array(tensor) for tensor in after.graph.initializer]
    return sum(x.ndim >= 2 and x.dtype == np.float32 and x.tobytes() not in known for x in arrays)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench transformers", description=__doc__)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--recipes", nargs="+", choices=[*CASES, "sparse"], default=[*CASES, "sparse"])
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--pairs", type=int, default=0, help="of sentences, for MiniLM; 0 for none")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    options = parser.parse_args(argv)
    rows: list[Row] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        for path in options.models:
            kind = Sentences if (path.parent / "tokenizer.json").exists() else Task
            task = kind(path, options.pairs)
            for recipe in options.recipes:
                wanted = [m for m in CASES.get(recipe, ()) if not options.methods or m.name in options.methods]
                found = sparse_rows(task) if recipe == "sparse" else rows_of(task, recipe, wanted)
                write_json(options.json, [{**row, **machine(["edgekern", "onnxruntime", "onnx"])} for row in found])
                rows += found
    print_table(rows, COLUMNS)
    return 0
