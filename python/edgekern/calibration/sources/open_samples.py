"""What data is, and the reader for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekern._arguments import file_path, integer
from edgekern.calibration.sources.arrays import ArraySamples
from edgekern.calibration.sources.base import Array, Input, Samples, Source
from edgekern.calibration.sources.given import GivenSamples
from edgekern.calibration.sources.images import SUFFIXES as PICTURES
from edgekern.calibration.sources.images import Images, pictures_in
from edgekern.calibration.sources.input_list import InputList, is_input_list
from edgekern.calibration.sources.inputs import inputs_of
from edgekern.calibration.sources.labels import check_labels, labels_of, read_labels
from edgekern.calibration.sources.preprocessing import options_of
from edgekern.calibration.sources.raw import CalibSet, RawFolder, header_path
from edgekern.calibration.sources.rows import MAX_UNREADABLE, RowSamples
from edgekern.calibration.sources.text import Texts
from edgekern.calibration.sources.vendor_json import read_vendor_json
from edgekern.calibration.sources.wav import WavWindows
from edgekern.errors import ArgumentValueError
from edgekern.file_kinds import KINDS, kind_of_file

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes

KINDS_OF_DATA = ("arrays", "raw", "calib_set", "input_list", "mnn", "images", "wav", "text")
_SUFFIX_KINDS = {
    **dict.fromkeys((".npy", ".npz"), "arrays"),
    **dict.fromkeys(PICTURES, "images"),
    ".bin": "raw",
    ".wav": "wav",
    ".txt": "text",
    ".json": "mnn",
}
_HEAD_KINDS = {
    **dict.fromkeys(("npy", "npz"), "arrays"),
    **dict.fromkeys(("jpeg", "png", "gif", "webp"), "images"),
    "wav": "wav",
}
_IN_FOLDERS = ("arrays", "images", "raw", "wav", "text")  # a JSON in a folder of data describes it, or is of others


def samples(
    source: str | os.PathLike[str] | Iterable[Any],
    model_or_inputs: Any,
    *,
    kind: str | None = None,
    batch: int | None = None,
    limit: int | None = None,
    labels: str | os.PathLike[str] | Sequence[int] | Array | None = None,
    label_offset: int = 0,
    max_unreadable: float = MAX_UNREADABLE,
    shapes: Shapes | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    **options: Any,
) -> Samples:
    """Sample data as feeds of a model: of a known number, as often as one likes, one feed in memory.

    Parameters
    ----------
    source : one path or several of one kind, or an iterable of feeds that has a length.
        ``.npy`` and ``.npz`` files and folders of them; folders of pictures, of ``.wav``, or of raw ``.bin`` (one a
        sample); one ``.bin`` of samples one after another; QNN's ``input_list.txt``; MNN's calibration JSON; texts.
    model_or_inputs : ONNX model (path, bytes, ModelProto), Calibrator, InferenceSession or Program; or a mapping of
        input names to shapes, the batch first.
    kind : one of :data:`KINDS_OF_DATA`, where contents do not say.
    batch : rows of a feed. None is what the model takes, 8 where that is free.
    limit : take so many samples, evenly spread over all. Not of arrays.
    labels : ``"folders"`` (the folder that a file lies in is its class), a CSV with the columns file and label, or
        class numbers in an array or a ``.npy`` file.
    label_offset : added to each label.
    max_unreadable : float. Share of the pictures or sounds that may be damaged: they are named and left out.
    shapes : mapping, optional. Sizes of free dimensions, as for :func:`edgekern.compile`.
    preprocessing : mapping, optional. That of other samples, as ``Ranges.preprocessing`` has it; options change it.
    **options : of pictures: preset ("imagenet", "unit", "symmetric"), size, crop, scale, mean, std, channels, layout,
        resample. Of sounds: rate. Of texts: tokenizer, max_length, padding.

    Returns
    -------
    Samples

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        The data is of no known kind or of several, does not fit the model's inputs, or an option is unknown or has a
        value that it cannot have. Later, while it is read: a file has another size than a sample, or too many are
        damaged.

    Examples
    --------
    >>> data = samples("photos/", "model.onnx", preset="imagenet")     # doctest: +SKIP
    >>> calibrator.collect_many(data)                                  # doctest: +SKIP
    """
    labels, label_offset = read_labels(labels), integer("samples", "label_offset", label_offset)
    if not _is_path(source) and not _are_paths(source):
        given = GivenSamples(source)  # type: ignore[arg-type]
        if labels is not None:
            given.labels = check_labels(labels, given.num_samples) + label_offset
        return given
    each: Any = [source] if _is_path(source) else source
    paths = [file_path("samples", "source", path) for path in each]
    inputs = inputs_of(model_or_inputs, shapes)
    used = kind or kind_of_data(paths)
    if used not in KINDS_OF_DATA:
        raise ArgumentValueError(f"samples: kind must be one of {KINDS_OF_DATA}, got {used!r}")
    if used == "arrays":
        _refuse_options(used, options, limit=limit)
        return _labelled(ArraySamples(paths, inputs, batch=batch), labels, label_offset)
    if used == "mnn":
        found, count, said = read_vendor_json(_only(paths, "a calibration JSON"))
        paths, limit, options, used = found, limit or count, {**said, **options}, "images"
    if preprocessing is not None:
        options = {**options_of(preprocessing, used), **options}
    reader = _reader(used, paths, inputs, labels, label_offset, options)
    if not len(reader):
        raise ArgumentValueError(f"samples: {', '.join(map(str, paths))} holds no samples")
    return RowSamples(reader, inputs, batch=batch, limit=limit, max_unreadable=max_unreadable)


def kind_of_data(paths: Sequence[Path]) -> str:
    """What paths are, by contents and names; one of :data:`KINDS_OF_DATA`."""
    kinds = {_kind_of(path) for path in paths}
    if len(kinds) != 1:
        raise ArgumentValueError(f"samples: the data is of several kinds, {sorted(kinds)}; give one kind at a time")
    return kinds.pop()


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Every file in data, for those who must not write over one."""
    return [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]


def _kind_of(path: Path) -> str:
    if not path.is_dir():
        return _kind_of_file(path)
    if (path / "input_list.txt").is_file():
        return "input_list"
    found = {_SUFFIX_KINDS.get(file.suffix.lower()) for file in path.rglob("*") if file.is_file()}
    kinds = [kind for kind in _IN_FOLDERS if kind in found]
    if not kinds:
        raise ArgumentValueError(
            f"samples: {path} holds no samples; arrays (.npy, .npz), pictures, .bin, .wav and .txt files are read"
        )
    if len(kinds) > 1 and kinds != ["images", "text"]:  # lists beside pictures are no texts to read
        raise ArgumentValueError(
            f"samples: {path} holds files of several kinds, {kinds}; say which with kind= (--kind {kinds[0]})"
        )
    return kinds[0]


def _kind_of_file(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"samples: there is no file or folder {path}")
    head = kind_of_file(path)
    if head in _HEAD_KINDS:
        return _HEAD_KINDS[head]
    named = _SUFFIX_KINDS.get(path.suffix.lower())
    if named == "raw":
        return "calib_set"
    if named == "text":
        return "input_list" if is_input_list(path) else "text"
    if named is None:
        if head in KINDS:
            raise ArgumentValueError(f"samples: {path} holds no samples; {KINDS[head]}")
        raise ArgumentValueError(f"samples: {path} is of no kind that is read; say which with kind= (--kind)")
    return named


def _reader(
    kind: str,
    paths: Sequence[Path],
    inputs: Sequence[Input],
    labels: Any,
    label_offset: int,
    options: Mapping[str, Any],
) -> Source:
    makers: dict[str, Callable[..., Source]] = {"images": Images, "wav": WavWindows, "text": Texts}
    if kind in ("raw", "calib_set", "input_list"):
        _refuse_options(kind, options)
        path = _only(paths, f"data of the kind {kind}")
        if kind == "raw":
            raw: RawFolder | CalibSet | InputList = RawFolder(path, inputs)
        elif kind == "calib_set":
            raw = CalibSet(path, inputs)
        else:
            raw = InputList(path / "input_list.txt" if path.is_dir() else path, inputs)
        raw.labels = None if labels is None else check_labels(labels, len(raw)) + label_offset
        return raw
    found = _files_in(paths, kind)
    given = dict(options)
    if kind != "text":
        given["labels"] = None if labels is None else labels_of(found, labels, offset=label_offset)
    elif labels is not None:
        raise ArgumentValueError("samples: labels are of pictures, sounds and arrays, and this data is text")
    try:
        return makers[kind](found, inputs, **given)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        name = str(error).split("'")[-2]
        raise _no_option(name, kind) from error


def _files_in(paths: Sequence[Path], kind: str) -> list[Path]:
    if kind == "images":
        return [file for path in paths for file in (pictures_in(path) if path.is_dir() else [path])]
    pattern = {"wav": "*.[wW][aA][vV]", "text": "*.txt"}[kind]
    return [file for path in paths for file in (sorted(path.rglob(pattern)) if path.is_dir() else [path])]


def _labelled(given: Samples, labels: Any, offset: int) -> Samples:
    if labels is not None:
        if isinstance(labels, (str, os.PathLike)):
            raise ArgumentValueError("samples: arrays have no file a sample; give labels as an array of class numbers")
        given.labels = check_labels(labels, given.num_samples) + offset
    return given


def _refuse_options(kind: str, options: Mapping[str, Any], **more: Any) -> None:
    for name, value in {**options, **more}.items():
        if value is not None:
            raise _no_option(name, kind)


def _no_option(name: str, kind: str) -> ArgumentValueError:
    flag = "samples" if name == "limit" else name.replace("_", "-")
    return ArgumentValueError(f"samples: {name!r} is no option of data of the kind {kind}; leave it out (--{flag})")


def _only(paths: Sequence[Path], what: str) -> Path:
    if len(paths) != 1:
        raise ArgumentValueError(f"samples: {what} is one path, got {len(paths)}")
    return paths[0]


def _is_path(source: object) -> bool:
    return isinstance(source, (str, bytes, os.PathLike))


def _are_paths(source: object) -> bool:
    return isinstance(source, (list, tuple)) and bool(source) and all(map(_is_path, source))


__all__ = ["KINDS_OF_DATA", "files_of", "header_path", "kind_of_data", "samples"]
