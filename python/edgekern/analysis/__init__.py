"""Reports on what quantization costs a model, and where. Needs ``edgekern[toolkit]``."""

from edgekern.analysis.comparison import compare
from edgekern.analysis.compress_model import Compressed, CompressReport, OutputRow, compress
from edgekern.analysis.error_report import ErrorReport, ErrorRow
from edgekern.analysis.evaluation import Evaluation, evaluate
from edgekern.analysis.gates import Gate, Limits, Validation, validate
from edgekern.analysis.listed_checks import Check, Checklist, checklist
from edgekern.analysis.measure_granularity import Granularity, GranularityRow, granularity
from edgekern.analysis.measure_sensitivity import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "Check",
    "Checklist",
    "CompressReport",
    "Compressed",
    "ErrorReport",
    "ErrorRow",
    "Evaluation",
    "Gate",
    "Granularity",
    "GranularityRow",
    "Limits",
    "OutputRow",
    "Sensitivity",
    "SensitivityRow",
    "Validation",
    "checklist",
    "compare",
    "compress",
    "evaluate",
    "granularity",
    "sensitivity",
    "validate",
]
