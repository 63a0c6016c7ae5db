"""Running programs: onnxruntime's interface over the C++ session. Needs NumPy only, onnxruntime for host steps."""

from edgekern.runtime.batcher import Batcher
from edgekern.runtime.binding import Binding
from edgekern.runtime.host import HOST_TIMEOUT_S, refuse_host_steps
from edgekern.runtime.interface import NodeArg
from edgekern.runtime.io_binding import IOBinding
from edgekern.runtime.measured_paths import MeasuredPaths, StepPath
from edgekern.runtime.options import ExecutionMode, ExecutionOrder, GraphOptimizationLevel, RunOptions, SessionOptions
from edgekern.runtime.ort_value import OrtValue
from edgekern.runtime.path_trials import ROUNDS, measure_paths
from edgekern.runtime.profile import Profile, StepTime, random_feeds
from edgekern.runtime.providers import get_available_providers, get_device, set_default_logger_severity
from edgekern.runtime.session import InferenceSession
from edgekern.runtime.stress import STEPS, Stress, memory_budget, stress

__all__ = [
    "HOST_TIMEOUT_S",
    "ROUNDS",
    "STEPS",
    "Batcher",
    "Binding",
    "ExecutionMode",
    "ExecutionOrder",
    "GraphOptimizationLevel",
    "IOBinding",
    "InferenceSession",
    "MeasuredPaths",
    "NodeArg",
    "OrtValue",
    "Profile",
    "RunOptions",
    "SessionOptions",
    "StepPath",
    "StepTime",
    "Stress",
    "get_available_providers",
    "get_device",
    "measure_paths",
    "memory_budget",
    "random_feeds",
    "refuse_host_steps",
    "set_default_logger_severity",
    "stress",
]
