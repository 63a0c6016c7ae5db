"""What the compiler made of the innermost loop: a spilled accumulator costs most of the speed, but no answer."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import edgekern._core

LIBRARY = Path(edgekern._core.__file__).with_name("libedgekern.so.1")
LONGEST_LOOP = 160  # instructions


def _instructions() -> list[tuple[int, str]]:
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", str(LIBRARY)], capture_output=True, text=True, check=True
    ).stdout
    pairs = (re.match(r"\s*([0-9a-f]+):\s+(\S.*)", line) for line in listing.splitlines())
    return [(int(pair[1], 16), pair[2]) for pair in pairs if pair]


def _loops(instructions: list[tuple[int, str]]) -> list[list[str]]:
    """The bodies of short loops: from the target of a conditional jump backwards to the jump."""
    index = {address: i for i, (address, _) in enumerate(instructions)}
    loops = []
    for i, (address, text) in enumerate(instructions):
        jump = re.match(r"j(?!mp)\w+\s+([0-9a-f]+)", text)
        start = index.get(int(jump[1], 16)) if jump and int(jump[1], 16) < address else None
        if start is not None and i - start < LONGEST_LOOP:
            loops.append([body for _, body in instructions[start : i + 1]])
    return loops


def _count(body: list[str], pattern: str) -> int:
    return sum(re.search(pattern, line) is not None for line in body)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the loop is that of AVX-512")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is absent")
def test_inner_loop_of_the_tile_keeps_everything_in_registers():
    tiles = [body for body in _loops(_instructions()) if _count(body, r"vpdpbusd .*zmm") == 24]
    clean = [
        body
        for body in tiles
        if _count(body, r"vmovdqu64 .*\(.*\),%zmm") == 4  # lines of weights
        and _count(body, r"vpdpbusd .*\(") == 0  # no product takes one from memory again
        and _count(body, r"\(%r[sb]p") == 0  # no accumulator waits on the stack
    ]
    native = [body for body in clean if _count(body, r"vpbroadcastd .*\(.*zmm") == 6]
    flipped = [body for body in clean if _count(body, r"vpxord .*\{1to16\}.*zmm") == 6]
    assert native, f"{len(tiles)} loops with 24 products, none of them clean"
    assert flipped, "the tile for the other sign has more than one instruction a row"
    assert all(len(body) <= 24 + 4 + 6 + 4 for body in native + flipped)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the loop is that of AVX-512")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is absent")
def test_loop_of_one_row_fetches_a_line_of_every_turn_and_keeps_its_sums_in_registers():
    turns = [body for body in _loops(_instructions()) if _count(body, r"vpdpbusd .*zmm") == 64]  # 4 panels, 4 quads
    clean = [
        body
        for body in turns
        if _count(body, r"vpdpbusd .*\(") == 64  # each product reads its line, once
        and _count(body, r"prefetcht1 .*\(") == 4
        and _count(body, r"\(%r[sb]p") == 0
    ]
    assert len(clean) == 2, f"{len(turns)} loops with 64 products, not both signs' clean"
