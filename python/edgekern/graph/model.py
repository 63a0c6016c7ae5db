"""The float model: read, checked, brought to an opset that the toolkit speaks, and told apart from others."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from edgekern import files
from edgekern._arguments import file_path
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernError
from edgekern.file_kinds import naming_kind
from edgekern.graph.external import external_tensors, refuse_external_data

if TYPE_CHECKING:
    import onnx

    from edgekern.graph.skeleton import Skeleton

    ModelLike = str | os.PathLike[str] | bytes | onnx.ModelProto | Skeleton


# What onnxruntime has in ONNX's own domain, where ONNX has none of the name; its transformer tools write it.
_OF_ONNXRUNTIME = frozenset({"SimplifiedLayerNormalization"})
_UNCHECKED = "edgekern.unchecked"


def load_model(model: ModelLike, *, function: str = "load_model") -> onnx.ModelProto:
    """Read a model, check it, and bring it to opset 13 or later.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        A ModelProto is not changed. External data is read for a path alone, from files in its folder.
    function : str. Named in errors.

    Returns
    -------
    onnx.ModelProto
        With opset 13 or later, Q and DQ in one in which onnxruntime runs them, halves in float32 between Casts, and
        without initializers among the graph's inputs: they are constants.

    Raises
    ------
    ArgumentTypeError
        When ``model`` is none of the three.
    ArgumentValueError
        When it is not ONNX, breaks ONNX's rules (an unknown operator, for one), or its opset is older than 7 or newer
        than the installed onnx and onnxruntime know. When it is no path and has external data, or names files outside
        its folder.
    FileNotFoundError
        When the path leads nowhere.
    """
    return open_model(model, function=function).to_proto()


def open_model(model: ModelLike, *, function: str) -> Skeleton:
    """What :func:`load_model` returns, with the large weights aside: no message of the model's size is made."""
    from edgekern.graph.skeleton import Skeleton

    if isinstance(model, Skeleton):
        return model
    with naming_kind(model, "an ONNX model", "onnx"):
        return _open_model(model, function)


def _open_model(model: ModelLike, function: str) -> Skeleton:
    import onnx

    from edgekern.graph.cast_like import write_casts
    from edgekern.graph.halves import widen_halves
    from edgekern.graph.opset import (
        OLDEST_OPSET,
        WORKING_OPSET,
        downgraded,
        has_quantization,
        newest_opset,
        opset_of,
        unknown_change,
    )
    from edgekern.graph.order import sort_nodes
    from edgekern.graph.soundness import MOST_NODES, nodes_when_inlined, what_checker_misses
    from edgekern.graph.sparse import make_dense, refuse_huge

    skeleton = parse_model(model, function=function)
    proto = skeleton.proto
    name = f" {os.fspath(model)!r}" if isinstance(model, (str, os.PathLike)) else ""
    if proto.ir_version == 0 or not proto.HasField("graph"):
        raise ArgumentValueError(f"{function}: model{name} is not an ONNX model: it has no graph")
    opset = opset_of(proto)
    newest = newest_opset()
    if not OLDEST_OPSET <= opset <= newest:
        raise ArgumentValueError(
            f"{function}: model{name} has opset {opset}, which is outside {OLDEST_OPSET}..{newest}; "
            "export it again with an opset in that range, or install a newer onnx and onnxruntime"
        )
    refuse_huge(proto, function)
    if proto.functions and (inlined := nodes_when_inlined(proto)) > MOST_NODES:
        raise ArgumentValueError(
            f"{function}: model{name} has {inlined} nodes once its functions stand where they are called, and "
            f"{MOST_NODES} are the most; export it without functions in functions"
        )
    try:
        sort_nodes(proto.graph)
        onnx.checker.check_model(_for_checker(proto))
        if (broken := what_checker_misses(proto, skeleton.weights)) is not None:
            raise ValueError(broken)
        make_dense(skeleton)
        reason = unknown_change(proto, opset)
        if opset < WORKING_OPSET:
            converted = _converted(proto)
            if converted is None:
                reason = f"onnx's version converter, which brings it to {WORKING_OPSET}, fails on it"
            else:
                proto = converted
        if reason is None and has_quantization(proto):
            proto, reason = downgraded(proto)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ArgumentValueError(f"{function}: model{name} is not valid ONNX: {reason}") from error
    if reason is not None:
        raise ArgumentValueError(
            f"{function}: model{name} has opset {opset}: {reason}; export it again with another opset"
        )
    skeleton = skeleton.with_graph(_without_overridable_inputs(proto, onnx.IR_VERSION_2019_9_19))
    return widen_halves(write_casts(skeleton))


def _converted(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """In the working opset; None where onnx's converter breaks on a model that its checker has passed.

    It moves what bodies of If and Loop read of the graph around them between graphs, and ends in an assertion.
    """
    import onnx

    from edgekern.graph.opset import FIRST_WITH_MODES, WORKING_OPSET, opset_of, restore_resizes

    try:
        converted = onnx.version_converter.convert_version(proto, WORKING_OPSET)
    except RuntimeError as error:
        if "Assertion" not in str(error):
            raise
        return None
    if opset_of(proto) < FIRST_WITH_MODES:
        restore_resizes(converted)
    return converted


def what_breaks_onnx(model: Skeleton) -> str | None:
    """The rule of ONNX that a model breaks, its shapes included, as its checker says it; None where it keeps all."""
    import onnx

    # Inference takes the checker's stand-in for a shape that is missing for one that is given.
    has_shapes = all(value.type.tensor_type.HasField("shape") for value in model.inputs)
    try:
        onnx.checker.check_model(_for_checker(model.proto), full_check=has_shapes)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        return " ".join(str(error).split())
    return None


def parse_model(model: ModelLike, *, function: str) -> Skeleton:
    """Read a model and check nothing but that it can be parsed, and names no files that may not be read for it."""
    import onnx

    from edgekern.graph import opening

    from_path = isinstance(model, (str, os.PathLike))
    try:
        if isinstance(model, onnx.ModelProto):
            skeleton = opening.from_proto(model)
        elif isinstance(model, bytes):
            skeleton = opening.from_bytes(model)
        elif from_path:
            path = file_path(function, "model", model)
            with files.open_regular(path, function=function) as file:
                skeleton = opening.from_file(path, file)
        else:
            raise ArgumentTypeError(
                f"{function}: model must be a path, bytes or onnx.ModelProto, got {type(model).__name__}"
            )
    except (OSError, EdgekernError):
        raise
    except Exception as error:  # protobuf's, or a text format's own
        source = {bytes: "the bytes given", onnx.ModelProto: "the ModelProto given"}.get(type(model), repr(str(model)))
        raise ArgumentValueError(f"{function}: model must be ONNX, but {source} cannot be parsed ({error})") from error
    # onnx's checker and onnxruntime would read it from the current folder.
    refuse_external_data(skeleton.proto, function, from_path=from_path)
    for weight in skeleton.weights.values():
        refuse_external_data(weight.header, function, from_path=from_path)
    return skeleton


def model_files(path: str | os.PathLike[str], *, function: str) -> list[Path]:
    """The files that a model is read from: its own, and those of its external data. Raises as :func:`load_model`."""
    from edgekern.graph import opening

    with naming_kind(path, "an ONNX model", "onnx"):
        try:
            with files.open_regular(path, function=function) as file:
                proto = opening.without_data(Path(path), file)
        except (OSError, EdgekernError):
            raise
        except Exception as error:  # protobuf's, or a text format's own
            raise ArgumentValueError(
                f"{function}: model must be ONNX, but {str(path)!r} cannot be parsed ({error})"
            ) from error
    entries = [entry for tensor in external_tensors(proto) for entry in tensor.external_data]
    locations = dict.fromkeys(entry.value for entry in entries if entry.key == "location")
    return [Path(path), *(Path(path).parent / location for location in locations)]


def _for_checker(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Copy for the checker, which wants the shape of every input and output; onnxruntime and edgekern do without.

    Operators of onnxruntime's own get a domain of which it knows no rules.
    """
    import onnx

    from edgekern.graph.subgraphs import bodies

    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.output[:]
    for value in bare.graph.input:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    waiting = [*bare.graph.node, *(node for function in bare.functions for node in function.node)]
    for owner in (bare, *bare.functions):
        owner.opset_import.add(domain=_UNCHECKED, version=1)
    while waiting:
        node = waiting.pop()
        if node.domain in ("", "ai.onnx") and node.op_type in _OF_ONNXRUNTIME:
            node.domain = _UNCHECKED
        waiting += [inner for body in bodies(node) for inner in body.node]
    return bare


def _without_overridable_inputs(proto: onnx.ModelProto, ir_version: int) -> onnx.ModelProto:
    """Take initializers out of the graph's inputs (before IR 4 they had to be listed there)."""
    import onnx

    constants = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    if len(inputs) == len(proto.graph.input):
        return proto
    clean = onnx.ModelProto()
    clean.CopyFrom(proto)
    clean.ir_version = max(clean.ir_version, ir_version)
    del clean.graph.input[:]
    clean.graph.input.extend(inputs)
    return clean


def model_hash(model: ModelLike) -> str:
    """Identity of a model: sha256, in hex, of what it computes.

    Covers opsets, inputs, outputs, nodes, initializers and functions of the model as :func:`load_model` returns it, so
    a path, its bytes and its ModelProto agree, wherever the weights lie. Doc strings, metadata, producer and inferred
    shapes do not count.
    """
    from edgekern.graph.skeleton import Weight, without_story

    skeleton = open_model(model, function="model_hash")
    proto, graph = skeleton.proto, skeleton.proto.graph
    digest = hashlib.sha256()
    for part in (
        proto.opset_import,
        skeleton.inputs,
        graph.output,
        graph.node,
        list(skeleton.initializers()),
        (),  # hashes are those of before sparse initializers were made dense
        proto.functions,
    ):
        digest.update(len(part).to_bytes(8, "little"))
        for message in part:
            if isinstance(message, Weight):
                before, after = message.encoded_around()
                digest.update((len(before) + message.nbytes + len(after)).to_bytes(8, "little"))
                for piece in (before, *message.pieces(), after):
                    digest.update(piece)
                continue
            encoded = without_story(message).SerializeToString(deterministic=True)
            digest.update(len(encoded).to_bytes(8, "little"))
            digest.update(encoded)
    return digest.hexdigest()
