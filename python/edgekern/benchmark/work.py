"""What a run's time goes to, by kind of work, so that a program stands beside another one of the same model."""

from __future__ import annotations

from collections.abc import Mapping

from edgekern.runtime.profile import CONVERSIONS, HOST, MOVES, Profile, StepTime

PRODUCTS, REST, OUTSIDE = "products", "other steps", "border and call"
KINDS = (PRODUCTS, "conversions", "moves", "host steps", REST, OUTSIDE)
# Nothing is said of a kind that takes less of both.
_LEAST_SHARE = 0.005


def kind_of(step: StepTime) -> str:
    if step.kind == HOST:
        return "host steps"
    if step.kind in CONVERSIONS:
        return "conversions"
    if step.kind in MOVES:
        return "moves"
    return PRODUCTS if step.macs else REST


def by_kind(profile: Profile) -> dict[str, float]:
    """Microseconds of a run by kind of work; they add up to the profile's median."""
    found = dict.fromkeys(KINDS, 0.0)
    for step in profile.steps:
        found[kind_of(step)] += step.p50_us
    found[OUTSIDE] = max(0.0, profile.p50_us - sum(found.values()))
    return found


def told(kinds: Mapping[str, float], other: Mapping[str, float] | None) -> list[tuple[str, str, str, str]]:
    """Rows of a table: the kind, its time, the other's time, how many times as fast."""
    whole, rows = sum(kinds.values()), []
    for kind in KINDS:
        mine, theirs = kinds[kind], (other or {}).get(kind, 0.0)
        if mine < _LEAST_SHARE * whole and theirs < _LEAST_SHARE * whole:
            continue
        gain = f"{theirs / mine:.2f}" if other is not None and mine and theirs else ""
        rows.append((kind, f"{mine:.1f}", f"{theirs:.1f}" if other is not None else "", gain))
    return rows
