"""Do detectors find in 8 bits what they find in float? ``python -m bench boxes FOLDER ... [--output DIR]``.

PicoDet (``layout_cdla``), PP-OCRv4's text detector and UltraFace, where the folders hold them, are calibrated on half
of the pictures, quantized by default, and run on the other half beside the float model in onnxruntime. Boxes are
decoded as each model's authors do, but that text boxes lie along the axes. A row has the boxes of float, how many of
them are found again (intersection over union of 0.5 and 0.75, and of the same class), those that float has not, and the
mean overlap. ``--output`` draws every picture with both: float's in blue, ours in red.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import edgekern as ek
from bench.bench_coverage import inputs_of
from bench.harness import print_table
from bench.real_inputs import Feeds, feeds_for
from edgekern._onnxruntime import open_session

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Boxes:
    """``corners`` are (n, 4): left, top, right, bottom in pixels of the input; ``classes`` and ``scores`` (n,)."""

    corners: Array
    classes: Array
    scores: Array


def overlaps(one: Array, other: Array) -> Array:
    """Intersection over union of every box with every other, (n, m)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=-1)
    areas = [np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=-1) for boxes in (one, other)]
    union: Array = areas[0][:, None] + areas[1][None] - shared
    return np.asarray(shared / np.maximum(union, 1e-9))


def without_doubles(boxes: Boxes, most: float) -> Boxes:
    """Greedy suppression within each class: of boxes that overlap by more than ``most``, the best."""
    left = list(np.argsort(-boxes.scores, kind="stable"))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        same = overlaps(boxes.corners[[best]], boxes.corners[left])[0] if left else []
        left = [n for n, o in zip(left, same, strict=True) if o <= most or boxes.classes[n] != boxes.classes[best]]
    return Boxes(boxes.corners[kept], boxes.classes[kept], boxes.scores[kept])


def _picodet(outputs: Sequence[Array], height: int, width: int) -> Boxes:
    """Distances from cell centers as the mean of eight bins; four strides (Yu et al., arXiv 2111.00902)."""
    corners, classes, scores = [], [], []
    for level, stride in enumerate((8, 16, 32, 64)):
        certain, bins = outputs[level][0], outputs[4 + level][0].reshape(-1, 4, 8)
        powers = np.exp(bins - bins.max(axis=-1, keepdims=True))
        left, top, right, bottom = (powers / powers.sum(-1, keepdims=True) @ np.arange(8) * stride).T
        y, x = (axis.reshape(-1) for axis in np.mgrid[: -(-height // stride), : -(-width // stride)])
        x, y = (x + 0.5) * stride, (y + 0.5) * stride
        corners.append(np.stack([x - left, y - top, x + right, y + bottom], axis=1))
        classes.append(certain.argmax(axis=1))
        scores.append(certain.max(axis=1))
    found = Boxes(np.concatenate(corners), np.concatenate(classes), np.concatenate(scores))
    sure = found.scores > 0.5
    return without_doubles(Boxes(found.corners[sure], found.classes[sure], found.scores[sure]), 0.5)


def _text(outputs: Sequence[Array], height: int, width: int) -> Boxes:
    """What hangs together above 0.3 and is 0.5 in the mean, grown by 1.6 of area over perimeter (arXiv 1911.08947)."""
    from scipy import ndimage

    probability = outputs[0][0, 0]
    labels, _ = ndimage.label(probability > 0.3)
    corners, scores = [], []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        tall, wide = rows.stop - rows.start, columns.stop - columns.start
        score = float(probability[rows, columns][labels[rows, columns] == number].mean())
        if min(tall, wide) < 3 or score < 0.5:
            continue
        grown = 1.6 * tall * wide / (2 * (tall + wide))
        corners.append([columns.start - grown, rows.start - grown, columns.stop + grown, rows.stop + grown])
        scores.append(score)
    return Boxes(np.reshape(corners, (-1, 4)), np.zeros(len(corners), int), np.array(scores))


def _faces(outputs: Sequence[Array], height: int, width: int) -> Boxes:
    scores, corners = outputs[0][0, :, 1], outputs[1][0] * np.array([width, height] * 2)
    sure = scores > 0.7
    return without_doubles(Boxes(corners[sure], np.zeros(int(sure.sum()), int), scores[sure]), 0.3)


DECODERS: dict[str, Callable[[Sequence[Array], int, int], Boxes]] = {
    "layout_cdla": _picodet,
    "ch_PP-OCRv4_det_infer": _text,
    "ultraface_rfb_320": _faces,
}


def agreement(wanted: Boxes, found: Boxes) -> dict[str, Any]:
    """How many boxes of float are found again, each by one of ours at most, best overlaps first."""
    overlap = overlaps(wanted.corners, found.corners) * (wanted.classes[:, None] == found.classes[None])
    met = []
    while overlap.size and overlap.max() >= 0.5:
        row, column = np.unravel_index(overlap.argmax(), overlap.shape)
        met.append(float(overlap[row, column]))
        overlap[row], overlap[:, column] = 0, 0
    again = len(met)
    return {
        "float": len(wanted.scores),
        "found_50": again,
        "found_75": sum(value >= 0.75 for value in met),
        "extra": len(found.scores) - again,
        "overlap": sum(met),
    }


def _picture(feeds: Feeds, boxes: Sequence[tuple[Boxes, str]], path: Path) -> None:
    from PIL import Image, ImageDraw

    [values] = feeds.values()
    planes = values[0].transpose(1, 2, 0)
    scaled = (planes - planes.min()) / (planes.max() - planes.min()) * 255
    picture = Image.fromarray(scaled.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for found, color in boxes:
        for (left, top, right, bottom), kind in zip(found.corners, found.classes, strict=True):
            shift = 0 if color == "blue" else 2
            draw.rectangle((left + shift, top + shift, right + shift, bottom + shift), outline=color)
            draw.text((left + 3 + 12 * shift, top + 2), str(kind), fill=color)
    picture.save(path)


def go_through(path: Path, pictures: int, output: Path | None) -> dict[str, Any]:
    """One row."""
    [(_, (shape, _))] = inputs_of(path).items()
    shapes = {name: size for name, (size, _) in inputs_of(path).items()}
    feeds, _ = feeds_for(path, pictures)
    calibration, scored = feeds[1::2], feeds[::2]
    ranges = ek.Calibrator(path, shapes=shapes, progress=False).collect_many(calibration).compute_ranges()
    session = ek.InferenceSession(ek.compile(ek.quantize(path, ranges, shapes=shapes), shapes=shapes))
    truth = open_session(str(path), num_threads=1, as_written=True)
    decode, rows = DECODERS[path.stem], []
    for number, feed in enumerate(scored):
        wanted, found = (decode(run.run(None, dict(feed)), shape[2], shape[3]) for run in (truth, session))
        rows.append(agreement(wanted, found))
        if output is not None:
            _picture(feed, [(wanted, "blue"), (found, "red")], output / f"{path.stem}_{number}.png")
    summed = {name: sum(row[name] for row in rows) for name in rows[0]}
    return (
        {"model": path.name, "pictures": len(rows)}
        | summed
        | {"overlap": summed["overlap"] / (summed["found_50"] or 1)}
    )


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench boxes", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--pictures", type=int, default=12, help="of each model; half of them calibrate")
    parser.add_argument("--output", type=Path, help="a folder for the pictures with their boxes")
    options = parser.parse_args(argv)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
    paths = sorted({path.resolve() for folder in options.folders for path in folder.rglob("*.onnx")})
    rows = [go_through(path, options.pictures, options.output) for path in paths if path.stem in DECODERS]
    counts = dict.fromkeys(("pictures", "float", "found_50", "found_75", "extra"), "d")
    print_table(rows, {"model": "", **counts, "overlap": ".3f"})
    return 0
