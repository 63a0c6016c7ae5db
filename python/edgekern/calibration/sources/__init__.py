"""Where calibration data comes from: one reader a kind of file, all of them feeds of known number.

NumPy alone reads arrays and raw numbers; pictures need Pillow (``edgekern[images]``), texts ``tokenizers``.
"""

from edgekern.calibration.sources.base import Input, Samples
from edgekern.calibration.sources.open_samples import KINDS_OF_DATA, files_of, samples
from edgekern.calibration.sources.preprocessing import PRESETS

__all__ = ["KINDS_OF_DATA", "PRESETS", "Input", "Samples", "files_of", "samples"]
