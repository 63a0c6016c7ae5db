"""Running programs: onnxruntime's interface over the C++ session. Needs NumPy only, onnxruntime for host steps."""

from edgekern.runtime.host import HOST_TIMEOUT_S, refuse_host_steps
from edgekern.runtime.measured_paths import MeasuredPaths, StepPath
from edgekern.runtime.path_trials import ROUNDS, measure_paths
from edgekern.runtime.profile import Profile, StepTime, random_feeds
from edgekern.runtime.session import InferenceSession, NodeArg

__all__ = [
    "HOST_TIMEOUT_S",
    "ROUNDS",
    "InferenceSession",
    "MeasuredPaths",
    "NodeArg",
    "Profile",
    "StepPath",
    "StepTime",
    "measure_paths",
    "random_feeds",
    "refuse_host_steps",
]
