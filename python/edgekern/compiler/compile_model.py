"""ONNX in, Program out: a program for every size that is asked for, in one file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from edgekern._arguments import number
from edgekern.artifact import Program
from edgekern.artifact.axes import find_axes
from edgekern.artifact.buckets import holds
from edgekern.artifact.infos import numpy_dtype
from edgekern.compiler.emit import BlobStore
from edgekern.compiler.memory import too_large
from edgekern.compiler.padding import try_padding
from edgekern.compiler.pipeline import Compiled, compile_size, open_qdq, open_size
from edgekern.compiler.sizes import AskedShapes, asks_for_several, read_sizes
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, CompileError, EdgekernWarning
from edgekern.graph.contradiction import contradiction
from edgekern.graph.dimensions import LARGEST_SIZE

if TYPE_CHECKING:
    from edgekern.compiler.sizes import Sizes
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike
    from edgekern.graph.skeleton import Skeleton


def compile(
    qdq: ModelLike,
    *,
    batch: int | Sequence[int] = 1,
    shapes: AskedShapes | None = None,
    pad: Mapping[str, float] | None = None,
    allow_host: bool = True,
) -> Program:
    """Turn an ONNX model into a program.

    Parameters
    ----------
    qdq : path, bytes or onnx.ModelProto
        A model whose quantization is written as QuantizeLinear/DequantizeLinear pairs, of edgekern or any other tool;
        what is not quantized runs in float32, all of it where nothing is. Of a model in float16 or bfloat16 inputs,
        outputs and stored weights are halves.
    batch : int, or several
        Size of the free first dimension of the inputs, where ``shapes`` says nothing of it.
    shapes : mapping, optional
        Sizes of free dimensions: ``{"input_ids": (1, 128)}`` by the name of an input, None leaving one of them to the
        model and ``batch``; ``{"sequence": 128}`` by the name of a dimension. A named one has one size in all inputs.
        A dimension may have several: ``{"input_ids": (1, (16, 128))}``, ``{"sequence": (16, 128)}``.
    pad : mapping, optional
        What fills up inputs between two sizes, by their names: 0 where nothing is said. Who gives it insists on sizes
        between.
    allow_host : bool
        Whether onnxruntime may compute what has no kernel, between the program's segments.

    Returns
    -------
    Program

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When ``qdq`` is not ONNX, its opset is unknown, ``batch`` is not a positive integer, ``shapes`` contradicts the
        model or itself, the sizes make more than 64 programs, or ``pad`` has no number that its input can hold.
    HostStepError
        When nodes need the host and ``allow_host`` is False; it names each with its reason.
    CompileError
        When a shape is free or unknown, or neither edgekern nor onnxruntime can run an operator. When ``pad`` is given,
        and what fills up is seen in the results.

    Warns
    -----
    EdgekernWarning
        When nodes go to the host; :attr:`Program.host_steps` lists them with reason and cost. It says so when all do,
        because the model is not quantized. When no size between those given can run, and why.

    Notes
    -----
    Which operators compile to what: docs/operators.md. Several sizes: docs/sizes.md. Each combination of them is a
    program over the same weights. What lies between runs in the next larger one if that changes no bit of the results,
    which is tried here, beside programs of such sizes; of rows that have nothing to do with each other there may be any
    number.
    """
    if not isinstance(batch, Sequence) or isinstance(batch, str):
        _require_batch(batch)
    if pad is None and not asks_for_several(batch, shapes):
        return _compile_one(qdq, cast(int, batch), cast("Shapes | None", shapes), allow_host=allow_host)
    opened = open_qdq(qdq)
    sizes = read_sizes(opened, batch, shapes)
    if not sizes.dimensions:
        if pad is not None:
            raise ArgumentValueError("compile: pad is given, but no dimension has several sizes; leave it out")
        return _compile_one(qdq, *sizes.at(()), allow_host=allow_host, opened=opened)
    return _compile_several(qdq, sizes, pad, allow_host=allow_host)


def _require_batch(batch: object) -> None:
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise ArgumentTypeError(f"compile: batch must be an integer, got {type(batch).__name__}")
    if not 1 <= batch <= LARGEST_SIZE:
        raise ArgumentValueError(f"compile: batch must be at least 1 and at most {LARGEST_SIZE}, got {batch}")


def _compile_one(
    qdq: ModelLike, batch: int, shapes: Shapes | None, *, allow_host: bool, opened: Skeleton | None = None
) -> Program:
    """``opened``: the model, where it was opened already."""
    store = BlobStore()
    one = compile_size(qdq if opened is None else opened, batch, shapes, store, 0, allow_host=allow_host)
    return _assembled([one], store, qdq, [(batch, shapes)])


def _compile_several(qdq: ModelLike, sizes: Sizes, pad: Mapping[str, float] | None, *, allow_host: bool) -> Program:
    store, found = BlobStore(), list[Compiled]()
    for combination in sizes.combinations():
        found.append(compile_size(qdq, *sizes.at(combination), store, len(found), allow_host=allow_host))
        if len(found) == 1:
            _check_pads(pad, found[0])
    inputs, outputs = _borders(found)
    try:
        buckets, reasons = find_axes(sizes.dimensions, inputs, outputs, _plain(pad or {}))
    except ValueError as error:
        raise CompileError(f"compile: {error}") from error
    found[0] = replace(found[0], manifest=replace(found[0].manifest, buckets=buckets))
    program = _assembled(found, store, qdq, [sizes.at(one) for one in sizes.combinations()])

    def exact(one: Sequence[int]) -> Program:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", EdgekernWarning)  # it was said
            return _compile_one(qdq, *sizes.at(one), allow_host=allow_host)

    tried, why = try_padding(program, exact, insisted=pad is not None)
    reasons |= why
    if reasons and pad is not None:
        raise CompileError(f"compile: pad is given, but what fills up is seen: {_told(reasons)}")
    if reasons:
        warnings.warn(
            f"compile: sizes between those given will be refused, as what fills up may be seen: {_told(reasons)}",
            EdgekernWarning,
            stacklevel=3,
        )
    return program if tried == buckets else program.with_buckets(tried)


def _borders(found: Sequence[Compiled]) -> tuple[list[dict[str, tuple[int, ...]]], list[dict[str, tuple[int, ...]]]]:
    """The shapes of inputs and of outputs, by name, of each program."""

    def shapes(one: Compiled, side: Sequence[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
        return {name: tuple(one.index.tensors[tensor].shape) for name, tensor in side}

    return [shapes(one, one.manifest.inputs) for one in found], [shapes(one, one.manifest.outputs) for one in found]


def _plain(pads: Mapping[str, float]) -> dict[str, float]:
    """Python's own numbers: whole ones as they are, for the manifest."""
    return {name: int(value) if float(value).is_integer() else float(value) for name, value in pads.items()}


def _told(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _assembled(
    found: Sequence[Compiled], store: BlobStore, qdq: ModelLike, sizes: Sequence[tuple[int, Shapes | None]]
) -> Program:
    first, *others = found
    try:
        program = Program.build(
            first.index,
            store.take(),
            first.manifest,
            [(other.index, other.manifest) for other in others],
            first.metadata,
        )
    except ArtifactError as error:
        for one in sizes:  # of which one contradicts itself, as only the whole program shows
            if (reason := contradiction(open_size(qdq, *one), error)) is not None:
                raise CompileError(f"compile: {reason}") from error
        largest = max((one.largest for one in found), key=lambda tensor: tensor.size)
        if largest.size <= LARGEST_SIZE:
            raise
        raise CompileError(too_large(largest.name, largest.shape, largest.nbytes)) from error
    return replace(program, nodes=first.nodes)


def _check_pads(pads: object, one: Compiled) -> None:
    if pads is None:
        return
    if not isinstance(pads, Mapping):
        raise ArgumentTypeError(f"compile: pad must be a mapping such as {{'input_ids': 0}}, got {type(pads).__name__}")
    types = {name: numpy_dtype(one.index.tensors[tensor].dtype) for name, tensor in one.manifest.inputs}
    for name, value in pads.items():
        if name not in types:
            raise ArgumentValueError(f"compile: pad has {name!r}, but the inputs are {list(types)}")
        if isinstance(value, bool):
            raise ArgumentTypeError(f"compile: pad[{name!r}] must be a number, got bool")
        number("compile", f"pad[{name!r}]", value)
        if not holds(types[name], value):
            raise ArgumentValueError(f"compile: pad[{name!r}] is {value}, which {types[name]} cannot hold")
