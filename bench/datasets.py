"""The models and data that accuracy is measured on, preprocessed as their authors did.

Found through ``EDGEKERN_TEST_DATA`` (default ``../shared/data``). JPEG needs Pillow, which only the bench depends on.
"""

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Float32Array = npt.NDArray[np.float32]

DATA_ROOT = Path(os.environ.get("EDGEKERN_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
_IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
_CIFAR_CALIBRATION_IMAGES = 1000


@dataclass(frozen=True)
class Fold:
    """What one quantized model is calibrated on, and the samples, never among those, that it is scored on."""

    calibration: Float32Array
    samples: Float32Array
    labels: Array


@dataclass(frozen=True)
class Task:
    """A classifier, its data, and the top-1 points that INT8 may lose."""

    name: str
    file: str
    allowed_drop: float
    load: Callable[[], Sequence[Fold]]

    @property
    def model(self) -> Path:
        return DATA_ROOT / self.file


def _two_folds(samples: Float32Array, labels: Array) -> list[Fold]:
    """Calibrate on every other sample, score the rest, and swap."""
    first = np.arange(len(samples)) % 2 == 0
    return [Fold(samples[part], samples[~part], labels[~part]) for part in (first, ~first)]


def _nchw(images: Float32Array) -> Float32Array:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _standardize(images: Array) -> Float32Array:
    standard = (images.astype(np.float32) / 255 - _IMAGENET_MEAN) / _IMAGENET_STD
    return _nchw(standard.astype(np.float32, copy=False))


@cache
def _imagenet() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    from PIL import Image

    folder, images, labels = DATA_ROOT / "imagenet", [], []
    with (folder / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            with Image.open(folder / "images" / row["file"]) as picture:
                left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
                crop = picture.convert("RGB").crop((left, top, left + 224, top + 224))
            images.append(np.asarray(crop))
            labels.append(int(row["label"]))
    return np.stack(images), np.array(labels)


def _mobilenet() -> Sequence[Fold]:
    images, labels = _imagenet()
    return _two_folds(_nchw(images.astype(np.float32) / np.float32(127.5) - 1), labels + 1)  # class 0 is background


def _squeezenet() -> Sequence[Fold]:
    images, labels = _imagenet()
    return _two_folds(_standardize(images), labels)


def _cifar(prepare: Callable[[Array], Float32Array]) -> Sequence[Fold]:
    with np.load(DATA_ROOT / "cifar10" / "cifar10_train_10000.npz") as train:
        calibration = prepare(train["x"][:_CIFAR_CALIBRATION_IMAGES])
    with np.load(DATA_ROOT / "cifar10" / "cifar10_test_5000.npz") as test:
        return [Fold(calibration, prepare(test["x"]), test["y"].astype(np.int64))]


def _keywords() -> Sequence[Fold]:
    with np.load(DATA_ROOT / "audio" / "kws01_500.npz") as file:
        scale, zero_point = np.float32(file["scale"]), np.float32(file["zero_point"])
        features = (file["mfcc_int8"].astype(np.float32) - zero_point) * scale
        return _two_folds(features[:, None], file["label"].astype(np.int64))


TASKS = {
    task.name: task
    for task in (
        Task("mobilenetv2", "cnn/mobilenetv2_1.0_224.onnx", 1.0, _mobilenet),
        Task("squeezenet1.1", "cnn/squeezenet1.1.onnx", 0.6, _squeezenet),
        Task("resnet20", "cnn/resnet20_cifar10.onnx", 0.4, lambda: _cifar(_standardize)),
        Task("resnet8", "cnn/resnet8_cifar10.onnx", 0.5, lambda: _cifar(lambda x: _nchw(x.astype(np.float32)))),
        Task("keywords", "audio/kws_ds_cnn.onnx", 0.8, _keywords),
    )
}
