"""Reports on compiled models as they really run. Needs ``edgekern[toolkit]``."""

from edgekern.analysis.comparison import ErrorReport, ErrorRow, compare
from edgekern.analysis.evaluation import Evaluation, evaluate

__all__ = ["ErrorReport", "ErrorRow", "Evaluation", "compare", "evaluate"]
