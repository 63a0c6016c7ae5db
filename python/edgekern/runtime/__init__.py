"""Running programs: onnxruntime's interface over the C++ session. Needs NumPy only, onnxruntime for host steps."""

from edgekern.runtime.session import InferenceSession, NodeArg

__all__ = ["InferenceSession", "NodeArg"]
