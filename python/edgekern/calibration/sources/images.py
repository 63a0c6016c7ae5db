"""Pictures through Pillow, one in memory at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekern import files
from edgekern._extras import install
from edgekern.calibration.sources.base import Array, Feeds, Input, UnreadableError, only_input, optional, stack
from edgekern.calibration.sources.preprocessing import Preprocessing, preprocessing_for
from edgekern.errors import ArgumentValueError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
_REMEDY = f"install it with: {install('images')}"


class Images:
    """One sample a picture, upright as its EXIF orientation says.

    Parameters
    ----------
    paths : pictures
    inputs : of the model, which must have one
    labels : (pictures,) int64, optional
    **options : of :func:`preprocessing_for`
    """

    def __init__(
        self, paths: Sequence[Path], inputs: Sequence[Input], *, labels: Array | None = None, **options: Any
    ) -> None:
        self._image = optional("PIL.Image", "pictures", _REMEDY)
        self._input = only_input(inputs, "pictures")
        self._paths = list(paths)
        self.labels = labels
        self.how: Preprocessing = preprocessing_for(self._input, **options)
        depth = len(self.how.mean)
        self._mean = np.array(self.how.mean, np.float32).reshape(depth)
        self._std = np.array(self.how.std, np.float32).reshape(depth)

    @property
    def preprocessing(self) -> Mapping[str, Any]:
        return self.how.as_json()

    def __len__(self) -> int:
        return len(self._paths)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_image"}  # no module is pickled

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._image = optional("PIL.Image", "pictures", _REMEDY)

    def read(self, number: int) -> Feeds:
        path = self._paths[number]
        try:
            with files.open_regular(path, function="samples") as file, self._image.open(file) as opened:
                picture = self._upright(opened)
        except (OSError, SyntaxError, ValueError, EOFError, self._image.DecompressionBombError) as error:
            raise UnreadableError(f"{path} ({' '.join(str(error).split())})") from error
        pixels = np.asarray(self._framed(picture, path))
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if self.how.channels == "BGR":
            pixels = pixels[..., ::-1]
        made = self._numbers(pixels)
        if self.how.layout == "NCHW":
            made = made.transpose(2, 0, 1)
        return {self._input.name: np.ascontiguousarray(made)}

    def join(self, rows: Sequence[Feeds]) -> Feeds:
        return stack(rows)

    def _upright(self, opened: Any) -> Any:
        turned = optional("PIL.ImageOps", "pictures", _REMEDY).exif_transpose(opened)
        return turned.convert("L" if self.how.channels == "GRAY" else "RGB")

    def _framed(self, picture: Any, path: Path) -> Any:
        """Resized, then cropped to the centre."""
        how, size = self.how, self.how.size
        if size is not None:
            height, width = _resized(picture.size[1], picture.size[0], size, how.crop)
            if (width, height) != picture.size:
                picture = picture.resize((width, height), self._image.Resampling[how.resample.upper()])
        if how.crop is None:
            return picture
        width, height = picture.size
        tall, wide = how.crop
        if height < tall or width < wide:
            raise ArgumentValueError(
                f"samples: {path} has {height}x{width} pixels, fewer than the crop {tall}x{wide}; give a size to "
                "resize to (--size)"
            )
        top, left = (height - tall) // 2, (width - wide) // 2
        return picture.crop((left, top, left + wide, top + tall))

    def _numbers(self, pixels: Array) -> Array:
        """Pixels 0..255 as the model takes them; integers are rounded and must hold the result."""
        how, given = self.how, self._input
        plain = how.scale == 1 and not self._mean.any() and (self._std == 1).all()
        if plain and given.kind == np.uint8 and not given.takes_codes:
            return pixels
        return given.stored((pixels.astype(np.float32) * np.float32(how.scale) - self._mean) / self._std)


def _resized(height: int, width: int, size: Any, crop: tuple[int, int] | None) -> tuple[int, int]:
    """Height and width that a picture is brought to."""
    if isinstance(size, tuple):
        return size
    tall, wide = (size, size) if isinstance(size, int) else crop or (height, width)
    if tall * width >= wide * height:  # the height is what just fits
        return tall, tall * width // height
    return wide * height // width, wide


def pictures_in(folder: Path) -> list[Path]:
    """In a folder and the folders in it, in the order of their names."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
