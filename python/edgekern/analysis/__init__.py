"""Reports on what quantization costs a model, and where. Needs ``edgekern[toolkit]``."""

from edgekern.analysis.comparison import compare
from edgekern.analysis.compress_model import Compressed, CompressReport, OutputRow, compress
from edgekern.analysis.control_accuracy import Controlled, ControlTrial, quantize_to
from edgekern.analysis.error_report import ErrorReport, ErrorRow
from edgekern.analysis.evaluation import Evaluation, evaluate
from edgekern.analysis.gates import Gate, Limits, Validation, validate
from edgekern.analysis.listed_checks import Check, Checklist, checklist
from edgekern.analysis.measure_granularity import Granularity, GranularityRow, granularity
from edgekern.analysis.measure_sensitivity import Sensitivity, SensitivityRow, sensitivity
from edgekern.analysis.search_plan import SearchResult, Trial, search
from edgekern.analysis.trace_pareto import Pareto, ParetoPoint, pareto

__all__ = [
    "Check",
    "Checklist",
    "CompressReport",
    "Compressed",
    "ControlTrial",
    "Controlled",
    "ErrorReport",
    "ErrorRow",
    "Evaluation",
    "Gate",
    "Granularity",
    "GranularityRow",
    "Limits",
    "OutputRow",
    "Pareto",
    "ParetoPoint",
    "SearchResult",
    "Sensitivity",
    "SensitivityRow",
    "Trial",
    "Validation",
    "checklist",
    "compare",
    "compress",
    "evaluate",
    "granularity",
    "pareto",
    "quantize_to",
    "search",
    "sensitivity",
    "validate",
]
