"""Several programs of one model as the modes of one file, over one set of blobs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekern import _core
from edgekern.artifact.buckets import MOST_PROGRAMS, Buckets
from edgekern.artifact.container import Blob, Form, form_of
from edgekern.artifact.manifest import Manifest
from edgekern.artifact.program import Program
from edgekern.errors import ArgumentValueError, ArtifactError

_Key = tuple[bytes, int, Form]  # what a blob holds
_Part = tuple[_core.ProgramIndex, Manifest]


def join(function: str, programs: Mapping[str, Program]) -> Program:
    """A program that has each of several as a mode, by name; blobs that are the same are stored once.

    Raises
    ------
    ArgumentValueError
        When they take or give arrays of other names, types or shapes, have other sizes, or are more than a file holds.
    ArtifactError
        When the bytes of a blob are not those that were written.
    """
    (name, first), *others = programs.items()
    for called, other in others:
        if (fact := _misfit(name, first, called, other)) is not None:
            raise ArgumentValueError(f"{function}: modes must have the same inputs, outputs and sizes, got {fact}")
    count = sum(len(one.all) for one in programs.values())
    if count > MOST_PROGRAMS:
        raise ArgumentValueError(
            f"{function}: modes and sizes must make at most the {MOST_PROGRAMS} programs that a file holds, got "
            f"{count}; leave some sizes out"
        )
    store = _Store()
    parts = [part for mode, one in enumerate(programs.values()) for part in store.taken(mode, one)]
    index, manifest = parts[0]
    manifest = replace(manifest, modes=tuple(programs), buckets=_common([one.buckets for one in programs.values()]))
    made = Program.build(index, store.blobs, manifest, parts[1:], first.model_metadata)
    nodes = [replace(one, nodes=given.nodes) for one, (_, given) in zip(made.alternatives, others, strict=True)]
    return replace(made, nodes=first.nodes, alternatives=tuple(nodes))


def _misfit(name: str, first: Program, called: str, other: Program) -> str | None:
    """What two modes do not have in common."""
    if first.modes or other.modes:
        return f"{(name if first.modes else called)!r}, which has modes of its own"
    for side, mine, others in (("input", first.inputs, other.inputs), ("output", first.outputs, other.outputs)):
        for a, b in zip(mine, others, strict=False):
            if a != b:
                return f"the {side} {a} of {name!r} and {b} of {called!r}"
        if len(mine) != len(others):
            return f"{len(mine)} {side}s of {name!r} and {len(others)} of {called!r}"
    sizes, theirs = first.buckets, other.buckets
    if (sizes and _bare(sizes)) != (theirs and _bare(theirs)):
        return f"the sizes {sizes or 'of one program'} of {name!r} and {theirs or 'of one program'} of {called!r}"
    return None


def _bare(buckets: Buckets) -> Buckets:
    """Without what trials say of what lies between sizes."""
    dimensions = [replace(one, padded=False, rows=False) for one in buckets.dimensions]
    return replace(buckets, dimensions=tuple(dimensions))


def _common(all_buckets: Sequence[Buckets | None]) -> Buckets | None:
    """What is allowed between sizes in every mode."""
    found = [one for one in all_buckets if one is not None]
    if not found:
        return None
    dimensions = [
        replace(same[0], padded=all(one.padded for one in same), rows=all(one.rows for one in same))
        for same in zip(*(one.dimensions for one in found), strict=True)
    ]
    return replace(found[0], dimensions=tuple(dimensions))


class _Store:
    """The blobs of all."""

    def __init__(self) -> None:
        self.blobs: list[tuple[str, Blob]] = []
        self._known: dict[_Key, int] = {}

    def taken(self, mode: int, program: Program) -> list[_Part]:
        """Index and manifest of each of a program's sizes, over the blobs that are here now."""
        indices = {variant.blob for variant in program.manifest.variants}
        places: dict[int, int] = {}  # of its blobs, here
        used: set[int] = set()  # one of its blobs has one place
        for number, entry in enumerate(program.index.blobs):
            if entry.name in indices:
                continue
            blob = program.container.view(entry.name)
            if hashlib.sha256(blob).digest() != entry.sha256:
                raise ArtifactError(
                    f"artifact: the bytes of '{entry.name}' are not those that were written; copy it again"
                )
            key = (entry.sha256, entry.bytes, form_of(entry))
            at = self._known.get(key)
            if at is None or at in used:
                at = self._known[key] = len(self.blobs)
                self.blobs.append((_named(entry.name, at, mode), program.container.stored(entry.name)))
            places[number] = at
            used.add(at)
        names = {entry.name: self.blobs[places[n]][0] for n, entry in enumerate(program.index.blobs) if n in places}
        return [_moved(one, places, names) for one in program.all]


def _named(name: str, at: int, mode: int) -> str:
    """The name of a blob, which no other has: those of steps begin with their place."""
    if mode == 0:
        return name
    place, dot, kind = name.partition(".")
    return f"{at}.{kind}" if dot and place.isdecimal() else f"mode.{mode}.{name}"


def _moved(program: Program, places: Mapping[int, int], names: Mapping[str, str]) -> _Part:
    index, steps = program.index, program.index.steps
    for step in steps:
        step.blobs = [places[number] for number in step.blobs]
    moved = _core.ProgramIndex(
        producer=f"edgekern {_core.__version__}",
        tensors=index.tensors,
        steps=steps,
        segments=index.segments,
        inputs=index.inputs,
        outputs=index.outputs,
        arena_bytes=index.arena_bytes,
    )
    hosts = [replace(step, blob=names[step.blob]) for step in program.host_steps]
    return moved, replace(program.manifest, host_steps=tuple(hosts), variants=(), buckets=None)
