"""Types of tensors in GGUF files: those that are read, and what to do with a file that has others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekern.errors import ArtifactError
from edgekern.llm.encodings import BF16, F16, F32, Q4_0, Q8_0

ENCODINGS = {0: F32, 1: F16, 2: Q4_0, 8: Q8_0, 30: BF16}
# The types that are not read, by llama.cpp's names.
_NAMES = """
3 Q4_1, 6 Q5_0, 7 Q5_1, 9 Q8_1, 10 Q2_K, 11 Q3_K, 12 Q4_K, 13 Q5_K, 14 Q6_K, 15 Q8_K, 16 IQ2_XXS, 17 IQ2_XS, 18 IQ3_XXS,
19 IQ1_S, 20 IQ4_NL, 21 IQ3_S, 22 IQ2_S, 23 IQ4_XS, 24 I8, 25 I16, 26 I32, 27 I64, 28 F64, 29 IQ1_M, 34 TQ1_0, 35 TQ2_0,
39 MXFP4, 40 NVFP4, 41 Q1_0
"""
OTHER_TYPES = {int(code): name for code, name in (entry.split() for entry in _NAMES.split(","))}


def require_known_types(path: Path, tensors: Sequence[tuple[str, int]]) -> None:
    """Refuse tensors, by name and code, of types that are not read, all at once."""
    unread: dict[str, list[str]] = {}
    for name, code in tensors:
        if code not in ENCODINGS:
            unread.setdefault(OTHER_TYPES.get(code, f"an unknown type {code}"), []).append(name)
    if not unread:
        return
    kinds = "; ".join(f"{kind} ({len(names)}, {names[0]!r} the first)" for kind, names in unread.items())
    known = ", ".join(encoding.name for encoding in ENCODINGS.values())
    borders = {name for names in unread.values() for name in names} <= {"output.weight", "token_embd.weight"}
    remedy = (
        "llama-quantize gives these types with --output-tensor-type q8_0 --token-embedding-type q8_0, or with --pure"
        if borders
        else "take the model's Q8_0, or make Q8_0 or --pure Q4_0 of its F16 with llama-quantize"
    )
    raise ArtifactError(f"llm.load: {path} has tensors of the types {kinds}; {known} are read; {remedy}")
