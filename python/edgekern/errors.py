"""The errors and warnings that edgekern raises.

Every message names the function, the argument, the rule, the fact, and the remedy where there is one. Each class
also derives from the built-in a caller would expect, so ``except ValueError`` keeps working.
"""


class EdgekernError(Exception):
    """Base of all edgekern errors."""


class ArgumentTypeError(EdgekernError, TypeError):
    """An argument has the wrong type or dtype."""


class ArgumentValueError(EdgekernError, ValueError):
    """An argument has the wrong shape, range or combination with another."""


class CalibrationError(EdgekernError, ValueError):
    """Calibration cannot give ranges: no data, another model, nothing finite."""


class QuantizationError(EdgekernError, ValueError):
    """A model cannot be written as QDQ with the ranges given."""


class CompileError(EdgekernError, ValueError):
    """A QDQ model cannot be turned into a program."""


class HostStepError(CompileError):
    """A program would need host steps and ``allow_host=False`` forbids them."""


class ArtifactError(EdgekernError, ValueError):
    """A file is truncated, altered, or of an unknown version."""


class HostTimeoutError(EdgekernError, TimeoutError):
    """A host step has not ended within the time that it may take."""


class KVRewindError(EdgekernError, ValueError):
    """A cache no longer has the tokens that a shorter sequence would see.

    Attributes
    ----------
    needed : oldest position that the next token would see, or None when there are not so many tokens
    oldest_resident : oldest position behind the sinks that is still stored
    """

    needed: int | None = None
    oldest_resident: int | None = None


class MemoryBudgetError(EdgekernError, MemoryError):
    """What was asked for does not fit in the memory that it may take, or that this process can have."""


class ForkError(EdgekernError, RuntimeError):
    """An object was in use by another thread when this process was forked, and is half changed here."""


class UnsupportedIsaError(EdgekernError, RuntimeError):
    """The ISA that was forced is not one this CPU has."""


class UnknownOptionError(EdgekernError, AttributeError):
    """An option, or a method of options, that onnxruntime may have and edgekern has not."""


class RunTerminatedError(EdgekernError, RuntimeError):
    """A run was refused because its RunOptions say terminate."""


class MissingExtraError(EdgekernError, ModuleNotFoundError):
    """A name or command needs a module that comes with an extra, which the message names."""


class EdgekernWarning(UserWarning):
    """Something was done for the caller that the caller may want to know.

    The classes below let one kind be silenced, or made an error, by itself; what fits none of them is of this class.
    """


class ClippingWarning(EdgekernWarning):
    """A range leaves little of a tensor, or cuts off what its bits could hold."""


class CopyWarning(EdgekernWarning):
    """An array was copied, which costs time and memory in every call."""


class FloatFallbackWarning(EdgekernWarning):
    """:func:`edgekern.quantize` leaves nodes in float32 that one may have wanted in 8 bits."""


class HostStepWarning(EdgekernWarning):
    """Nodes of a program run in onnxruntime, for want of a kernel."""


class LeftOutWarning(EdgekernWarning):
    """Samples or values were left out: damaged files, NaN and infinities."""


class WidenedScaleWarning(EdgekernWarning):
    """Channels of weights got a wider scale, so that no sum can overflow."""
