"""The compiler: a QDQ ONNX model becomes a flat program of kernel steps over one planned arena.

Needs ``edgekern[toolkit]``.
"""

from edgekern.artifact import Program
from edgekern.compiler.compile_model import compile

__all__ = ["Program", "compile"]
