"""``edgekern plan``: what a model takes of a device's memory."""

from pathlib import Path
from typing import Any

from edgekern.llm import plan_memory


def plan(model: Path | None, *, as_json: bool, **given: Any) -> tuple[str, bool]:
    """The plan as text, and whether it fits; ``given`` are keywords of ``plan_memory``."""
    made = plan_memory(model, **given)
    return made.to_json().rstrip() if as_json else str(made), made.fits
