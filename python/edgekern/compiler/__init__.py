"""The compiler: a QDQ ONNX model becomes a flat program of kernel steps over one planned arena.

Needs ``edgekern[toolkit]``.
"""

from edgekern.artifact import Program
from edgekern.compiler.compile_model import compile
from edgekern.compiler.modes import compile_modes

__all__ = ["Program", "compile", "compile_modes"]
