"""Running programs: onnxruntime's interface over the C++ session. Needs NumPy only, onnxruntime for host steps."""

from edgekern.runtime.batcher import Batcher
from edgekern.runtime.host import HOST_TIMEOUT_S, refuse_host_steps
from edgekern.runtime.profile import Profile, StepTime, random_feeds
from edgekern.runtime.session import InferenceSession, NodeArg
from edgekern.runtime.stress import STEPS, Stress, memory_budget, stress

__all__ = [
    "HOST_TIMEOUT_S",
    "STEPS",
    "Batcher",
    "InferenceSession",
    "NodeArg",
    "Profile",
    "StepTime",
    "Stress",
    "memory_budget",
    "random_feeds",
    "refuse_host_steps",
    "stress",
]
