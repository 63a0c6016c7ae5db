"""The main job on an embedded model: calibrate, quantize, compile and run a digit classifier, and say what it cost.

``edgekern quickstart`` prints what :func:`run` returns. Data and model lie beside this file; README.md there names
their source and licence, ``examples/train_digits.py`` trains the model.
"""

from edgekern.quickstart.digits import MODEL, Digits, load_digits
from edgekern.quickstart.job import LayerRow, QuickstartResult, run

__all__ = ["MODEL", "Digits", "LayerRow", "QuickstartResult", "load_digits", "run"]
