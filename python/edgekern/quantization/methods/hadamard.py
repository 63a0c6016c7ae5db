"""Rotations by random Hadamard matrices: every channel goes into all others with the same magnitude.

A Hadamard matrix of 1 and -1 has orthogonal rows. There is one of every power of two (Sylvester), of q + 1 for primes q
with q mod 4 = 3 (Paley), and of products of such sizes. Signs are drawn for its rows (QuaRot, arXiv 2404.00456).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Rotation = npt.NDArray[np.float64]


def random_hadamard(size: int, rng: np.random.Generator) -> Rotation:
    """An orthogonal (size, size) matrix of entries alike in magnitude.

    Where no such matrix is known, the largest odd part of the size gets a random rotation instead of a Hadamard matrix.
    """
    for power in range(size.bit_length()):
        if size % (1 << power):
            break
        if (factor := _paley(size >> power)) is not None:
            return _signed(np.kron(_sylvester(power), factor), rng)
    odd, power = size, 0
    while odd % 2 == 0:
        odd, power = odd // 2, power + 1
    return _signed(np.kron(_sylvester(power), random_orthogonal(odd, rng)), rng)


def random_orthogonal(size: int, rng: np.random.Generator) -> Rotation:
    """Of all rotations with the same chance."""
    q, r = np.linalg.qr(rng.normal(size=(size, size)))
    made: Rotation = q * np.sign(np.diagonal(r))
    return made


def keeping_ones(rotation: Rotation) -> Rotation:
    """A rotation near the given one that maps ``(1, ..., 1)`` to itself, so that means stay what they are.

    It is followed by the reflection that takes the image of the ones back to them.
    """
    size = len(rotation)
    ones = np.full(size, 1 / math.sqrt(size))
    apart = ones @ rotation - ones
    length = float(apart @ apart)
    if length < 1e-24:
        return rotation
    made: Rotation = rotation - 2 / length * np.outer(rotation @ apart, apart)
    return made


def _signed(matrix: npt.NDArray[np.floating], rng: np.random.Generator) -> Rotation:
    made: Rotation = matrix / np.sqrt(np.square(matrix[0]).sum()) * rng.choice([-1.0, 1.0], size=(len(matrix), 1))
    return made


def _sylvester(power: int) -> Rotation:
    made = np.ones((1, 1))
    for _ in range(power):
        made = np.block([[made, made], [made, -made]])
    return made


def _paley(size: int) -> Rotation | None:
    """Of 1, 2, or q + 1; None where that is not known."""
    q = size - 1
    if size <= 2:
        return _sylvester(q) if size > 0 else None
    if q % 4 != 3 or any(q % d == 0 for d in range(2, math.isqrt(q) + 1)):
        return None
    squares = {x * x % q for x in range(1, q)}
    character = np.array([0.0, *(1.0 if x in squares else -1.0 for x in range(1, q))])
    skew = np.zeros((size, size))
    skew[0, 1:], skew[1:, 0] = 1, -1
    skew[1:, 1:] = character[(np.arange(q)[:, None] - np.arange(q)) % q]
    return skew + np.eye(size)
