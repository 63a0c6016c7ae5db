"""The embedded model and its data."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FOLDER = Path(__file__).parent

#: The trained float model: input ``image`` (N, 1, 8, 8) float32 in [0, 1], output ``logits`` (N, 10).
MODEL = FOLDER / "digits.onnx"
DATA = FOLDER / "digits.npz"
INPUTS = (MODEL, DATA)


@dataclass(frozen=True, eq=False)
class Digits:
    """One part of the handwritten digits.

    Attributes
    ----------
    images : (N, 1, 8, 8) float32 array in [0, 1], as the model takes them
    labels : (N,) uint8 array, 0 to 9
    """

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.labels)

    def feeds(self, batch: int = 1) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        """Give the images as model feeds, ``batch`` at a time; the last one may be short."""
        for start in range(0, len(self), batch):
            yield {"image": self.images[start : start + batch]}

    def accuracy(self, logits: npt.NDArray[np.float32]) -> float:
        """Fraction of the images whose largest logit is their label."""
        return float(np.mean(logits.argmax(1) == self.labels))


def load_digits() -> tuple[Digits, Digits]:
    """Load the embedded digits.

    Returns
    -------
    (train, held_out)
        1197 digits that the model was trained on, and that calibration may see; 600 that neither has seen.
    """
    with np.load(DATA) as data:

        def part(name: str) -> Digits:
            return Digits(data[f"{name}_images"][:, None].astype(np.float32) / 16, data[f"{name}_labels"])

        return part("train"), part("held_out")
