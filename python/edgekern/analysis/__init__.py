"""Reports on what quantization costs a model, and where. Needs ``edgekern[toolkit]``."""

from edgekern.analysis.comparison import compare
from edgekern.analysis.error_report import ErrorReport, ErrorRow
from edgekern.analysis.evaluation import Evaluation, evaluate
from edgekern.analysis.measure_granularity import Granularity, GranularityRow, granularity
from edgekern.analysis.measure_sensitivity import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "ErrorReport",
    "ErrorRow",
    "Evaluation",
    "Granularity",
    "GranularityRow",
    "Sensitivity",
    "SensitivityRow",
    "compare",
    "evaluate",
    "granularity",
    "sensitivity",
]
