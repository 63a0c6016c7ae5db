"""MNN's calibration JSON: a folder of pictures and how they become arrays."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekern import files
from edgekern.calibration.sources.images import pictures_in
from edgekern.calibration.sources.raw import refuse_unknown
from edgekern.errors import ArgumentValueError

_MAX_BYTES = 1 << 20
_KNOWN = {
    *("format", "mean", "normal", "width", "height", "path", "used_image_num", "used_sample_num", "center_crop_w"),
    *(
        "center_crop_h",
        "feature_quantize_method",
        "weight_quantize_method",
        "model",
        "input_type",
        "debug",
        "batch_size",
    ),
    *("quant_bits", "feature_clamp_value", "weight_clamp_value", "skip_quant_op_names", "winogradOpt"),
}


def read_vendor_json(path: Path) -> tuple[list[Path], int | None, dict[str, Any]]:
    """The pictures, how many of them to take, and options for them. What only MNN's quantizer needs is left alone.

    Raises
    ------
    ArgumentValueError
        It is no such file, has a key that MNN's files have not, names no folder of pictures, or crops.
    """
    text = files.read_bytes(path, function="samples", limit=_MAX_BYTES)
    try:
        given = files.parse_json(text, most_values=1 << 16)
        if not isinstance(given, Mapping):
            raise ValueError(f"it holds a {type(given).__name__}")
    except (ValueError, RecursionError) as error:
        raise ArgumentValueError(f"samples: {path} is no calibration JSON: {error}") from error
    refuse_unknown(path, given, _KNOWN)
    if given.get("input_type", "image") != "image":
        raise ArgumentValueError(
            f"samples: {path} has input_type {given['input_type']!r}, and pictures are read; give the folder"
        )
    folder = next(
        (f for f in (path.parent / str(given.get("path", "")), Path(str(given.get("path", "")))) if f.is_dir()), None
    )
    if "path" not in given or folder is None:
        raise ArgumentValueError(f"samples: {path} must have a path that is a folder, got {given.get('path')!r}")
    order = given.get("format", "RGB")
    if order not in ("RGB", "BGR", "GRAY"):
        raise ArgumentValueError(f"samples: {path} has the format {order!r}; RGB, BGR and GRAY are read")
    try:
        mean = [float(number) for number in given.get("mean", [0])]
        normal = [float(number) for number in given.get("normal", [1])]
        options: dict[str, Any] = {
            "channels": order,
            "mean": mean,
            "std": [1 / number for number in normal],
            "scale": 1.0,
        }
        if "width" in given and "height" in given:
            options["size"] = (int(given["height"]), int(given["width"]))
        cropped = [float(given.get(name, 1)) for name in ("center_crop_w", "center_crop_h")]
        count = given.get("used_sample_num", given.get("used_image_num"))
        limit = None if count is None else int(count)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ArgumentValueError(f"samples: {path} is no calibration JSON ({error!r})") from error
    if cropped != [1, 1]:
        raise ArgumentValueError(
            f"samples: {path} crops to {cropped} before it resizes; give the folder with --crop and --size"
        )
    return pictures_in(folder), limit, options
