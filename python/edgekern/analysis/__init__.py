"""Reports on compiled models as they really run. Needs ``edgekern[toolkit]``."""

from edgekern.analysis.comparison import ErrorReport, ErrorRow, compare

__all__ = ["ErrorReport", "ErrorRow", "compare"]
