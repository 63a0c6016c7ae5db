"""Programs of the kinds of steps that every_step.ekm lacks: ``golden_program()`` in the test file of each."""

from importlib import import_module
from pathlib import Path

import edgekern as ek
from edgekern._core import StepKind


def younger_programs() -> dict[StepKind, ek.Program]:
    """By the kind that each is there for."""
    written = ek.Program.load(Path(__file__).parent / "every_step.ekm")
    kinds = sorted(set(StepKind) - {step.kind for step in written.index.steps})
    return {kind: import_module(f"test_{kind.name.lower()}").golden_program() for kind in kinds}
