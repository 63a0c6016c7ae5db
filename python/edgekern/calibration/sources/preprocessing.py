"""How a picture becomes an array: what is asked for, checked, and in a form that a file of ranges can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

from edgekern._arguments import number
from edgekern.calibration.sources.base import Input
from edgekern.errors import ArgumentValueError

Layout = Literal["NCHW", "NHWC"]
Channels = Literal["RGB", "BGR", "GRAY"]

_MOST_PIXELS = 1 << 14  # of a side: what a file asks for is made in memory
_DEPTH = {"RGB": 3, "BGR": 3, "GRAY": 1}
_RESAMPLES = ("bilinear", "bicubic", "nearest", "lanczos")

# What a file of ranges calls a kind of data, and which of its fields are options; the others tell.
_SAVED_KINDS = {"images": "image", "wav": "wav", "text": "text"}
_SAVED_OPTIONS = {
    "image": ("size", "crop", "scale", "mean", "std", "channels", "layout", "resample"),
    "wav": ("rate",),
    "text": ("max_length", "padding"),
}

PRESETS: dict[str, dict[str, Any]] = {
    # The mean and deviation of ImageNet's training pictures, as torchvision's models take them.
    "imagenet": {
        "size": 256,
        "crop": 224,
        "scale": 1 / 255,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "unit": {"scale": 1 / 255},
    "symmetric": {"mean": 127.5, "std": 127.5},  # -1..1, as TensorFlow's models take them
}


@dataclass(frozen=True)
class Preprocessing:
    """``(pixel * scale - mean) / std`` of a picture that is resized, then cropped.

    Attributes
    ----------
    size : the shorter side, or (height, width) to stretch to; "cover" is the least that the crop fits in, None leaves
        the picture as it is
    crop : (height, width) of the centre that is kept; None keeps all
    scale : float; mean, std : one number a channel. Of pixels 0..255, in the order of ``channels``.
    channels : "RGB", "BGR" or "GRAY"
    layout : "NCHW" or "NHWC"
    dtype : of the array
    resample : how Pillow resizes
    """

    size: int | tuple[int, int] | Literal["cover"] | None
    crop: tuple[int, int] | None
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: Channels
    layout: Layout
    dtype: str
    resample: str = "bilinear"

    def as_json(self) -> dict[str, Any]:
        return {"kind": "image", **{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}}


def preprocessing_for(
    given: Input,
    *,
    preset: str | None = None,
    size: int | Sequence[int] | Literal["cover"] | None = None,
    crop: int | Sequence[int] | None = None,
    scale: float | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: str | None = None,
    layout: str | None = None,
    resample: str = "bilinear",
) -> Preprocessing:
    """What is asked for, over a preset; layout, channels and the size of the crop come from the model where it says.

    Raises
    ------
    ArgumentValueError
        The input is no picture, an option has a value that it cannot have, or nothing says how pixels become floats.
    """
    if preset is not None and preset not in PRESETS:
        raise ArgumentValueError(f"samples: preset must be one of {sorted(PRESETS)}, got {preset!r}")
    asked = {"size": size, "crop": crop, "scale": scale, "mean": mean, "std": std}
    used = {**(PRESETS[preset] if preset else {}), **{name: v for name, v in asked.items() if v is not None}}
    if (given.kind.kind == "f" or given.takes_codes) and not {"scale", "mean", "std"} & set(used):
        raise ArgumentValueError(
            f"samples: nothing says how pixels 0..255 become {given.kind} for input {given.name!r}; give "
            "what the model was trained with: preset='imagenet' (--preset imagenet), or scale, mean and std"
        )
    form = _layout(given, layout)
    depth, sides = _sizes(given, form)
    order = channels if channels is not None else ("GRAY" if depth == 1 else "RGB")
    if not isinstance(order, str) or order not in _DEPTH or (isinstance(depth, int) and depth != _DEPTH[order]):
        raise ArgumentValueError(
            f"samples: channels must be one of {sorted(_DEPTH)} that has {depth} channels, got {order!r}"
        )
    if resample not in _RESAMPLES:
        raise ArgumentValueError(f"samples: resample must be one of {_RESAMPLES}, got {resample!r}")
    made = Preprocessing(
        _size(used.get("size")),
        _pair("crop", used["crop"]) if used.get("crop") else None,
        number("samples", "scale", used.get("scale", 1.0)),
        _per_channel("mean", used.get("mean", 0.0), _DEPTH[order]),
        _per_channel("std", used.get("std", 1.0), _DEPTH[order]),
        cast(Channels, order),
        form,
        str(given.kind),
        resample,
    )
    if any(value == 0 for value in made.std):
        raise ArgumentValueError(f"samples: std must not hold 0, got {made.std}")
    return _fitted(made, given, sides)


def is_of_kind(saved: Mapping[str, Any], kind: str) -> bool:
    """Whether a saved preprocessing is that of data of one kind."""
    return kind in _SAVED_KINDS and saved.get("kind") == _SAVED_KINDS[kind]


def options_of(saved: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """Options that read data of one kind as a saved preprocessing says.

    Raises
    ------
    ArgumentValueError
        It is of data of another kind.
    """
    if not is_of_kind(saved, kind):
        raise ArgumentValueError(
            f"samples: the preprocessing is of the kind {saved.get('kind')!r}, and this data is {kind}"
        )
    return {name: saved[name] for name in _SAVED_OPTIONS[_SAVED_KINDS[kind]] if saved.get(name) is not None}


def _fitted(made: Preprocessing, given: Input, sides: tuple[Any, Any]) -> Preprocessing:
    """With what the model says of the picture's size."""
    if not all(isinstance(side, int) for side in sides):
        return made
    if made.size is None and made.crop is None:
        made = replace(made, size="cover")
    last = made.crop or sides
    if last != sides:
        raise ArgumentValueError(
            f"samples: pictures would have {last[0]}x{last[1]} pixels, but input {given.name!r} takes "
            f"{sides[0]}x{sides[1]}; change size or crop"
        )
    return replace(made, crop=sides)


def _layout(given: Input, layout: str | None) -> Layout:
    if len(given.shape) != 4:
        raise ArgumentValueError(f"samples: input {given.name!r} has the shape {given.shape}, which holds no pictures")
    if layout is None:
        first, last = (given.shape[at] in (1, 3) for at in (1, 3))
        if first == last:
            raise ArgumentValueError(
                f"samples: the shape {given.shape} of input {given.name!r} does not say where its channels are; give "
                "layout='NCHW' or 'NHWC' (--layout)"
            )
        return "NCHW" if first else "NHWC"
    if layout not in ("NCHW", "NHWC"):
        raise ArgumentValueError(f"samples: layout must be 'NCHW' or 'NHWC', got {layout!r}")
    return cast(Layout, layout)


def _sizes(given: Input, layout: Layout) -> tuple[Any, tuple[Any, Any]]:
    """The number of channels, and height and width, as far as the model says."""
    _, a, b, c = given.shape
    return (a, (b, c)) if layout == "NCHW" else (c, (a, b))


def _size(value: Any) -> Any:
    if value is None or value == "cover":
        return value
    return _pair("size", value) if len(_several(value)) == 2 else _pair("size", value)[0]


def _pair(name: str, value: Any) -> tuple[int, int]:
    given = _several(value)
    sound = all(isinstance(side, int) and not isinstance(side, bool) and 0 < side <= _MOST_PIXELS for side in given)
    if len(given) not in (1, 2) or not sound:
        raise ArgumentValueError(
            f"samples: {name} must be one or two positive numbers (height, width), at most {_MOST_PIXELS}, "
            f"got {value!r}"
        )
    return given[0], given[-1]


def _per_channel(name: str, value: Any, depth: int) -> tuple[float, ...]:
    given = [number("samples", name, one) for one in _several(value)]
    if len(given) not in (1, depth):
        raise ArgumentValueError(f"samples: {name} must have 1 number or {depth}, one a channel, got {len(given)}")
    return tuple(given * depth if len(given) == 1 else given)


def _several(value: Any) -> list[Any]:
    plain = not isinstance(value, Iterable) or isinstance(value, (str, bytes, Mapping))
    return [value] if plain else list(value)
