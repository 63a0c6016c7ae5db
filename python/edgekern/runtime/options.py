"""Options of sessions and runs, as programs for onnxruntime set them.

The rule: what edgekern can do, it does. What only says how onnxruntime goes about its work is checked and has no
effect. What would change results, or write files, and edgekern cannot do is refused where it is set.
docs/from-onnxruntime.md lists them.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from edgekern._arguments import file_path, flag, integer, string, thread_count
from edgekern.errors import ArgumentTypeError, ArgumentValueError, RunTerminatedError, UnknownOptionError

if TYPE_CHECKING:
    from edgekern.artifact import Program

_Check = Callable[[str, str, Any], Any]
_Made = TypeVar("_Made", bound="_Options")

# Entries of the configuration that would change results or write files; None is any value.
_REFUSED_ENTRIES: Mapping[str, str | None] = {
    "session.set_denormal_as_zero": "1",  # subnormal numbers are numbers here, on every machine
    "session.save_model_format": None,
    "session.optimized_model_external_initializers_file_name": None,
    "ep.context_enable": "1",
}


class GraphOptimizationLevel(enum.IntEnum):
    """What onnxruntime may do to a graph. A compiled program has no graph left: it has no effect."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(enum.IntEnum):
    """Whether onnxruntime runs nodes side by side. Steps of a program run one after the other: it has no effect."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class ExecutionOrder(enum.IntEnum):
    """In which order onnxruntime runs nodes. A program has its own: it has no effect."""

    DEFAULT = 0
    PRIORITY_BASED = 1
    MEMORY_EFFICIENT = 2


def _one_of(kind: type[enum.IntEnum]) -> _Check:
    def check(owner: str, name: str, value: Any) -> enum.IntEnum:
        try:  # onnxruntime's own have no index
            return kind(value.value if isinstance(getattr(value, "value", None), int) else operator.index(value))
        except (TypeError, ValueError) as error:
            members = ", ".join(str(member.name) for member in kind)
            raise ArgumentValueError(f"{owner}: {name} must be one of {members}, got {value!r}") from error

    return check


def _count(owner: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or integer(owner, name, value) < 0:
        raise ArgumentValueError(f"{owner}: {name} must be an integer of at least 0, got {value!r}")
    return operator.index(value)


def _severity(owner: str, name: str, value: Any) -> int:
    if not -1 <= integer(owner, name, value) <= 4:
        raise ArgumentValueError(f"{owner}: {name} must be 0 (verbose) to 4 (fatal), or -1, got {value!r}")
    return operator.index(value)


def _level(owner: str, name: str, value: Any) -> int:
    return integer(owner, name, value)


def _prefix(owner: str, name: str, value: Any) -> str:
    file_path(owner, name, string(owner, name, value))
    return str(value)


def _nothing_written(owner: str, name: str, value: Any) -> str:
    if path := string(owner, name, value):
        raise ArgumentValueError(
            f"{owner}: {name} must be empty, got {path!r}: edgekern writes no optimized model; Program.save writes the "
            "compiled one"
        )
    return ""


class _Options:
    """Attributes that are known and checked, and the entries of a configuration."""

    _checks: ClassVar[Mapping[str, tuple[Any, _Check]]]
    _entries: dict[str, str]

    def __init__(self) -> None:
        for name, (default, _) in self._checks.items():
            object.__setattr__(self, name, default)
        object.__setattr__(self, "_entries", {})

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in self._checks:
            raise self._unknown(name)
        object.__setattr__(self, name, self._checks[name][1](type(self).__name__, name, value))

    def __getattr__(self, name: str) -> Any:  # only of what is not there
        if name.startswith("_"):
            raise AttributeError(name)
        raise self._unknown(name)

    def __repr__(self) -> str:
        changed = [
            f"{name}={getattr(self, name)!r}"
            for name, (default, _) in self._checks.items()
            if getattr(self, name) != default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def _unknown(self, name: str) -> UnknownOptionError:
        return UnknownOptionError(
            f"{type(self).__name__}: edgekern has no option {name!r}; it has {', '.join(self._checks)}"
        )

    def _add_entry(self, function: str, key: Any, value: Any) -> None:
        key, value = string(function, "key", key), string(function, "value", value)
        if key in _REFUSED_ENTRIES and _REFUSED_ENTRIES[key] in (None, value):
            raise ArgumentValueError(f"{function}: edgekern cannot do {key!r} = {value!r}; leave it out")
        self._entries[key] = value

    def _entry(self, function: str, key: Any) -> str:
        if (found := self._entries.get(string(function, "key", key))) is None:
            raise ArgumentValueError(f"{function}: there is no entry {key!r}; the entries are {sorted(self._entries)}")
        return found

    @classmethod
    def _taken(cls: type[_Made], function: str, argument: str, given: Any) -> _Made:
        """A copy that later changes leave alone: of our own, or of onnxruntime's by its attributes."""
        made = cls()
        if isinstance(given, cls):
            made.__dict__.update({name: getattr(given, name) for name in cls._checks})
            made._entries.update(given._entries)
            return made
        missing = [name for name in cls._must_have if not hasattr(given, name)]
        if missing or isinstance(given, type):
            raise ArgumentTypeError(
                f"{function}: {argument} must be an edgekern.{cls.__name__}, got {type(given).__name__}"
            )
        for name in cls._checks:
            if hasattr(given, name):
                setattr(made, name, getattr(given, name))
        return made

    _must_have: ClassVar[tuple[str, ...]]


class SessionOptions(_Options):
    """Options of a session; its attributes are onnxruntime's.

    Attributes
    ----------
    intra_op_num_threads : int
        Threads of a run, as ``num_threads`` of :class:`InferenceSession`; 0 is the package's setting.
    enable_profiling : bool
        Whether every run is timed step by step, for :meth:`InferenceSession.end_profiling`.
    profile_file_prefix : str
        How the name of that file begins; the time is appended.
    use_deterministic_compute : bool
        Always so: the same inputs give the same bits.
    inter_op_num_threads, graph_optimization_level, execution_mode, execution_order, enable_mem_pattern, \
enable_mem_reuse, enable_cpu_mem_arena, use_per_session_threads, log_severity_level, log_verbosity_level, logid
        Checked, and without effect.
    optimized_model_filepath : str
        Must stay empty.

    Raises
    ------
    UnknownOptionError
        Where another attribute is set or asked for.
    ArgumentTypeError, ArgumentValueError
        Where one is set to what it cannot be.
    """

    intra_op_num_threads: int
    inter_op_num_threads: int
    graph_optimization_level: GraphOptimizationLevel
    execution_mode: ExecutionMode
    execution_order: ExecutionOrder
    enable_profiling: bool
    profile_file_prefix: str
    enable_mem_pattern: bool
    enable_mem_reuse: bool
    enable_cpu_mem_arena: bool
    use_deterministic_compute: bool
    use_per_session_threads: bool
    log_severity_level: int
    log_verbosity_level: int
    logid: str
    optimized_model_filepath: str
    _dimensions: dict[str, int]

    _must_have = ("intra_op_num_threads", "graph_optimization_level")
    _checks: ClassVar[Mapping[str, tuple[Any, _Check]]] = {
        "intra_op_num_threads": (0, _count),
        "inter_op_num_threads": (0, _count),
        "graph_optimization_level": (GraphOptimizationLevel.ORT_ENABLE_ALL, _one_of(GraphOptimizationLevel)),
        "execution_mode": (ExecutionMode.ORT_SEQUENTIAL, _one_of(ExecutionMode)),
        "execution_order": (ExecutionOrder.DEFAULT, _one_of(ExecutionOrder)),
        "enable_profiling": (False, flag),
        "profile_file_prefix": ("onnxruntime_profile_", _prefix),
        "enable_mem_pattern": (True, flag),
        "enable_mem_reuse": (True, flag),
        "enable_cpu_mem_arena": (True, flag),
        "use_deterministic_compute": (False, flag),
        "use_per_session_threads": (True, flag),
        "log_severity_level": (-1, _severity),
        "log_verbosity_level": (0, _level),
        "logid": ("", string),
        "optimized_model_filepath": ("", _nothing_written),
    }

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "_dimensions", {})

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep an entry, which has no effect.

        Raises
        ------
        ArgumentTypeError, ArgumentValueError
            When it is no string, or asks for other results or for files that edgekern does not write.
        """
        self._add_entry("SessionOptions.add_session_config_entry", key, value)

    def get_session_config_entry(self, key: str) -> str:
        """An entry that was added; ArgumentValueError when there is none."""
        return self._entry("SessionOptions.get_session_config_entry", key)

    def add_free_dimension_override_by_name(self, name: str, size: int) -> None:
        """State the size of a dimension that the ONNX model left free.

        A program is compiled for sizes and holds no names of dimensions. A session is refused when no axis of its
        inputs has ``size``.
        """
        function = "SessionOptions.add_free_dimension_override_by_name"
        self._dimensions[string(function, "name", name)] = _count(function, "size", size)

    def add_free_dimension_override_by_denotation(self, denotation: str, size: int) -> None:
        """The same, for a dimension's denotation."""
        function = "SessionOptions.add_free_dimension_override_by_denotation"
        self._dimensions[string(function, "denotation", denotation)] = _count(function, "size", size)

    def has_providers(self) -> bool:
        """False: a session is given its providers."""
        return False

    @classmethod
    def of(cls, given: Any) -> SessionOptions:
        """A copy of what a session is given: None, our own, or an object of onnxruntime with the same attributes, of
        which entries and dimensions cannot be read."""
        if given is None:
            return cls()
        made = cls._taken("InferenceSession", "sess_options", given)
        if isinstance(given, cls):
            made._dimensions.update(given._dimensions)
            return made
        for key in _REFUSED_ENTRIES:
            with suppress(Exception):  # of onnxruntime, where there is no such entry
                made._entries[key] = given.get_session_config_entry(key)
        for key, value in list(made._entries.items()):
            made.add_session_config_entry(key, value)
        return made

    def check_sizes(self, program: Program) -> None:
        """Hold the sizes that were stated to those of a program's inputs.

        Raises
        ------
        ArgumentValueError
            When a dimension of that name has other sizes, or no axis has the size.
        """
        known = {} if program.buckets is None else {one.name: one.sizes for one in program.buckets.dimensions}
        axes = {size for info in program.inputs for size in info.shape}
        for name, size in self._dimensions.items():
            if size not in known.get(name, axes):
                told = ", ".join(f"{info.name} {list(info.shape)}" for info in program.inputs)
                raise ArgumentValueError(
                    f"InferenceSession: sess_options want the dimension {name!r} to be {size}, but the program was "
                    f"compiled for {list(known[name]) if name in known else told}; compile it with "
                    f"shapes={{{name!r}: {size}}}"
                )


class RunOptions(_Options):
    """Options of one run; its attributes are onnxruntime's.

    Attributes
    ----------
    terminate : bool
        True: runs that are given these options are refused. A run that is on already goes to its end.
    log_severity_level, log_verbosity_level, logid, only_execute_path_to_fetches
        Checked, and without effect.

    Raises
    ------
    UnknownOptionError, ArgumentTypeError, ArgumentValueError
        As of :class:`SessionOptions`.
    """

    log_severity_level: int
    log_verbosity_level: int
    logid: str
    only_execute_path_to_fetches: bool
    terminate: bool

    _must_have = ("terminate", "only_execute_path_to_fetches")
    _checks: ClassVar[Mapping[str, tuple[Any, _Check]]] = {
        "log_severity_level": (-1, _severity),
        "log_verbosity_level": (0, _level),
        "logid": ("", string),
        "only_execute_path_to_fetches": (False, flag),
        "terminate": (False, flag),
    }

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keep an entry, which has no effect. Raises as :meth:`SessionOptions.add_session_config_entry`."""
        self._add_entry("RunOptions.add_run_config_entry", key, value)

    def get_run_config_entry(self, key: str) -> str:
        """An entry that was added; ArgumentValueError when there is none."""
        return self._entry("RunOptions.get_run_config_entry", key)


def check_run_options(function: str, run_options: Any) -> None:
    """What a run is given, our own or of onnxruntime.

    Raises
    ------
    ArgumentTypeError
        When it is neither.
    RunTerminatedError
        When ``terminate`` is set.
    """
    if run_options is None:
        return
    given = (
        run_options if isinstance(run_options, RunOptions) else RunOptions._taken(function, "run_options", run_options)
    )
    if given.terminate:
        raise RunTerminatedError(f"{function}: run_options.terminate is True; set it to False to run again")


def num_threads_of(options: SessionOptions, num_threads: Any) -> int:
    """One number of threads of the two that a session may be given; 0 where there is none."""
    count, wanted = thread_count("InferenceSession", num_threads), options.intra_op_num_threads
    if count and wanted and count != wanted:
        raise ArgumentValueError(
            f"InferenceSession: num_threads must be sess_options.intra_op_num_threads, {wanted}, got {num_threads!r}; "
            "give one of them"
        )
    return count or wanted
