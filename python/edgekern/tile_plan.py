"""How a matrix product is cut into blocks: a plan for this machine, and a report for three NPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgekern import _core
from edgekern._arguments import string
from edgekern.errors import ArgumentValueError

__all__ = ["TileBlock", "TilePlan", "tile_plan"]


@dataclass(frozen=True)
class TileBlock:
    """One block of C = A @ B: rows and columns (half-open), the unit that runs it, what it computes, what it costs."""

    rows: tuple[int, int]
    cols: tuple[int, int]
    unit: Literal["cube", "vector"]
    padded: tuple[int, int]
    cost_us: float


@dataclass(frozen=True)
class TilePlan:
    """How a matrix product is cut: which 256-blocks go to the Cube, which edges to the Vector path."""

    shape: tuple[int, int, int]
    tile: int
    device: str
    blocks: tuple[TileBlock, ...]

    @property
    def grid(self) -> tuple[int, int]:
        """Blocks along M and along N."""
        m, n, _ = self.shape
        return -(-m // self.tile), -(-n // self.tile)

    @property
    def num_cube(self) -> int:
        """Blocks that run on the Cube path."""
        return sum(block.unit == "cube" for block in self.blocks)

    @property
    def num_vector(self) -> int:
        """Blocks that run on the Vector path."""
        return len(self.blocks) - self.num_cube

    @property
    def padding(self) -> float:
        """Share of the computed products that is padding, 0 to 1."""
        m, n, _ = self.shape
        computed = sum(block.padded[0] * block.padded[1] for block in self.blocks)
        return 1.0 - m * n / computed if computed else 0.0

    @property
    def cost_us(self) -> float:
        """Predicted time on one core of the device, microseconds."""
        return sum(block.cost_us for block in self.blocks)

    def __str__(self) -> str:
        m, n, k = self.shape
        rows, cols = self.grid
        return (
            f"[{m}, {k}] x [{k}, {n}] on {self.device}: {rows} x {cols} blocks of {self.tile}, {self.num_cube} Cube, "
            f"{self.num_vector} Vector, {self.padding:.1%} padding, {self.cost_us:.1f} us predicted"
        )


def tile_plan(m: int, n: int, k: int, *, tile: int = 256, device: str = "host") -> TilePlan:
    """Plan C[m, n] = A[m, k] @ B[k, n] in ``tile`` x ``tile`` blocks.

    A whole block runs on the Cube. A tail block is padded to the Cube's granule or sent to the Vector path, whichever
    is predicted to cost less. For ``device="host"`` and ``tile=256`` this is the plan that :func:`matmul_integer`
    executes.

    Parameters
    ----------
    m, n, k : int
        Sizes, at least 0.
    tile : int
        Side of a block; a multiple of 64.
    device : {"host", "ascend310p3", "kirin990", "sm8650"}
        Whose granules and rates to plan with.

    Returns
    -------
    TilePlan

    Raises
    ------
    ArgumentValueError
        A negative size, a tile that is not a multiple of 64, an unknown device.
    """
    for name, value in (("m", m), ("n", n), ("k", k)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise ArgumentValueError(
                f"tile_plan: {name} must be an integer of at least 0 and below 2^63, got {value!r}"
            )
    if isinstance(tile, bool) or not isinstance(tile, int) or not 1 <= tile < 2**63:
        raise ArgumentValueError(f"tile_plan: tile must be a positive multiple of 64, got {tile!r}")
    blocks = tuple(
        TileBlock((row0, row1), (col0, col1), unit, (padded_rows, padded_cols), cost)
        for row0, row1, col0, col1, unit, padded_rows, padded_cols, cost in _core.tile_plan(
            m, n, k, tile, string("tile_plan", "device", device)
        )
    )
    return TilePlan((m, n, k), tile, device, blocks)
