"""The files that are timed: what runs each, on which feeds, and whether its outputs are right."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _onnxruntime
from edgekern.artifact import Program, TensorInfo
from edgekern.benchmark.answers import LEAST_DB, LEAST_FLOAT_DB, Difference, difference
from edgekern.errors import ArgumentValueError, EdgekernError, EdgekernWarning
from edgekern.runtime import InferenceSession

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Shapes = Mapping[str, "int | tuple[int | None, ...]"]


@dataclass(frozen=True)
class Side:
    """One file.

    Attributes
    ----------
    kind : "" of the model, " float" of what it is held against: what the names of its contenders end with
    path, program : the file, and what edgekern runs of it
    compile_ms : that it took; None of an .ekm
    feeds : by input name
    mode : of an .ekm that has several
    """

    kind: str
    path: Path
    program: Program
    compile_ms: float | None
    feeds: Feeds
    mode: str | None = None

    @property
    def ours(self) -> str:
        return f"edgekern{self.kind}"

    @property
    def peer(self) -> str:
        return f"onnxruntime{self.kind}"

    @property
    def quantized(self) -> bool:
        macs = self.program.multiply_adds
        return macs["8 bits"] + macs["16 bits"] > 0


def compiled(path: Path, *, batch: int, shapes: Shapes | None, allow_host: bool) -> tuple[Program, float]:
    """The program of an ONNX file, and the milliseconds that it took; what runs on the host is said by its profile."""
    from edgekern.compiler import compile as compile_program

    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        program = compile_program(path, batch=batch, shapes=shapes, allow_host=allow_host)
    return program, (time.perf_counter() - start) * 1e3


def float_side(path: Path, own: Side, *, allow_host: bool) -> Side:
    """The float model, on the same rows as the program."""
    from edgekern.graph.model import open_model

    names = [value.name for value in open_model(path, function="bench").inputs]
    if sorted(names) != sorted(own.feeds):
        raise ArgumentValueError(
            f"bench: the float model has inputs {names}, and the model {list(own.feeds)}; give the float model that it "
            "was made of"
        )
    sizes: Shapes = {info.name: info.shape for info in own.program.inputs}
    try:
        program, took = compiled(path, batch=1, shapes=sizes, allow_host=allow_host)
    except ArgumentValueError as error:  # of the sizes
        raise ArgumentValueError(
            f"bench: the float model does not take what the model takes; give the one that it was made of: {error}"
        ) from error
    feeds = reals(own.program.inputs, own.feeds, program.inputs)
    for info in program.inputs:
        if feeds[info.name].dtype != info.dtype:
            raise ArgumentValueError(
                f"bench: input {info.name!r} of the float model is {info.dtype}, and of the model "
                f"{feeds[info.name].dtype}; give the float model that it was made of"
            )
    return Side(" float", path, program, took, feeds)


def reals(infos: tuple[TensorInfo, ...], arrays: Feeds, wanted: tuple[TensorInfo, ...] | None = None) -> Feeds:
    """What 8-bit codes at a border stand for; other arrays as they are.

    Parameters
    ----------
    wanted : what another program takes, which codes are brought to where it takes floats; None brings all
    """
    floats = {i.name for i in wanted if i.dtype.kind == "f"} if wanted is not None else set(arrays)
    found = {}
    for info in infos:
        array = arrays[info.name]
        if info.scale is not None and info.zero_point is not None and info.name in floats:
            array = ((array.astype(np.int32) - info.zero_point) * np.float32(info.scale)).astype(np.float32)
        found[info.name] = array
    return found


def our_run(session: InferenceSession, feeds: Feeds) -> tuple[Callable[[], object], Callable[[], Feeds]]:
    """A call as a server makes it, into arrays of its own, and the real values of what it has written."""
    out, outputs = session.run(None, feeds), session.program.outputs
    names = [info.name for info in outputs]

    def found() -> Feeds:
        return reals(outputs, dict(zip(names, session.run(None, feeds, out=out), strict=True)))

    return lambda: session.run(None, feeds, out=out), found


@dataclass(frozen=True)
class Checked:
    """What was compared before anything was timed.

    Attributes
    ----------
    defined : the outputs by ONNX's definition; None where nothing could compute them
    differences : of each contender from them
    left_out : contenders that are not timed, with the reason
    """

    defined: Feeds | None
    differences: dict[str, Difference]
    left_out: dict[str, str]


def checked(side: Side, num_threads: int, options: Mapping[str, Any]) -> Checked:
    """Hold both to onnxruntime's answer with all of its rewrites off.

    Raises
    ------
    EdgekernError
        Ours is wrong.
    """
    try:
        import onnxruntime as _  # noqa: F401
    except ImportError:
        return Checked(None, {}, {side.peer: "onnxruntime is not installed, so nothing is compared"})
    infos, path = side.program.outputs, str(side.path)
    try:
        session = _onnxruntime.open_session(path, num_threads=num_threads, as_written=True, fold=True)
        run, results = _onnxruntime.bound_run(session, side.feeds)
        names = [output.name for output in session.get_outputs()]
        run()
        defined = reals(infos, {name: value.copy() for name, value in zip(names, results(), strict=True)})
        del session, run, results
    except ArgumentValueError:
        raise
    except Exception as error:  # onnxruntime raises a class per status, all private
        return Checked(None, {}, {side.peer: f"onnxruntime refuses the model: {_first_line(error)}"})
    least = LEAST_DB if side.quantized else LEAST_FLOAT_DB
    ours = difference(
        defined, our_run(InferenceSession(side.program, num_threads=num_threads, **options), side.feeds)[1]()
    )
    if ours.sqnr_db < least:
        raise EdgekernError(
            f"bench: output '{ours.output}' of edgekern is {ours} from what ONNX defines, and a wrong answer is not "
            "timed; give data that the model was made for (random numbers may leave what it can compute), or report it"
        )
    differences, left_out = {side.ours: ours}, {}
    try:
        peer = _onnxruntime.open_peer(path, num_threads=num_threads)
        run, results = _onnxruntime.bound_run(peer, side.feeds)
        run()
        theirs = difference(defined, reals(infos, dict(zip(names, results(), strict=True))))
        differences[side.peer] = theirs
        if theirs.sqnr_db < least:
            left_out[side.peer] = f"its output '{theirs.output}' is {theirs} from what ONNX defines"
    except Exception as error:
        left_out[side.peer] = f"onnxruntime fails with its optimizations: {_first_line(error)}"
    return Checked(defined, differences, left_out)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
