"""Methods that round one matrix, with what they want to know of its inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.errors import ArgumentValueError
from edgekern.llm.encodings import FloatArray
from edgekern.llm.packing import Rounded, WeightFormat

Method = Literal["nearest", "hqq", "gptq", "awq", "awq+gptq"]
METHODS: tuple[Method, ...] = get_args(Method)
_DAMPING = 1e-3  # of the fit of all scales of a row
_REACHES = (8.0, 7.5, 7.0, 6.5, 6.0, 5.5, 8.5)  # steps that the largest weight of a group stands for


@dataclass(frozen=True)
class Inputs:
    """What a matrix reads of the calibration text.

    Attributes
    ----------
    moments : (k, k) float32. The mean of ``x x^T``
    magnitudes : (k,) float32. The mean of ``|x|``
    """

    moments: FloatArray
    magnitudes: FloatArray

    @staticmethod
    def of(x: FloatArray, *, rows: int = 4096) -> Inputs:
        """Of all rows of x, (tokens, k)."""
        moments = np.zeros((x.shape[1], x.shape[1]), np.float32)
        magnitudes = np.zeros(x.shape[1], np.float64)
        for first in range(0, len(x), rows):
            part = x[first : first + rows]
            moments += part.T @ part
            magnitudes += np.abs(part).sum(axis=0, dtype=np.float64)
        return Inputs(moments / np.float32(len(x)), (magnitudes / len(x)).astype(np.float32))

    def over(self, factors: FloatArray) -> Inputs:
        """Of inputs that are divided by factors."""
        return Inputs(self.moments / factors / factors[:, None], self.magnitudes / factors)


def check_method(function: str, name: str, form: WeightFormat) -> Method:
    """The method of this name. Raises ArgumentValueError where there is none, or none for such weights."""
    for method in METHODS:
        if method == name:
            if method == "hqq" and form.kind != "int4":
                raise ArgumentValueError(f"{function}: method='hqq' fits groups of int4, got weights={form.kind!r}")
            return method
    raise ArgumentValueError(f"{function}: method must be one of {', '.join(METHODS)}, got {name!r}")


def needs_text(method: Method) -> bool:
    """Whether it wants to know what the matrices read."""
    return method not in ("nearest", "hqq")


def round_matrix(w: FloatArray, form: WeightFormat, method: Method, inputs: Inputs | None) -> Rounded:
    """Codes of a matrix (rows, k). AWQ's factors are in ``w`` and ``inputs`` already."""
    if method == "hqq":
        from edgekern.quantization.methods.hqq import hqq_groups

        found = hqq_groups(w, form.group_size or 32)
        zero = None if found.zero is None else found.zero.astype(np.float32)
        return Rounded(found.codes, found.scale, zero, found.group, form.bits)
    if inputs is None or not method.endswith("gptq"):
        return nearest(w, form)
    from edgekern.quantization.methods.gptq import gptq

    grid = SignedGrid(w, form, np.diagonal(inputs.moments))
    codes = gptq(w, inputs.moments, grid)
    if grid.group:
        grid.refit(w, codes, inputs.moments)
    return grid.rounded(codes)


def nearest(w: FloatArray, form: WeightFormat) -> Rounded:
    """The codes that loading the float file would give."""
    w = np.ascontiguousarray(w)
    if form.kind == "int8":
        codes, scale = _core.dynamic_quantize(w, "", 0)
        return Rounded(codes, scale.reshape(-1, 1))
    group = form.group_size or 32
    codes, scale = _core.quantize_groups(w, group, 0, form.bits)
    return Rounded(codes, scale, None, group, form.bits)


def awq_factors(w: FloatArray, form: WeightFormat, inputs: Inputs, magnitudes: FloatArray) -> FloatArray:
    """What the inputs of a matrix are divided by, and its weights multiplied, by these magnitudes; (k,)."""
    from edgekern.quantization.methods.awq import awq_factors as search

    return search(w, magnitudes, inputs.moments, lambda scaled: nearest(scaled, form).restored()).factors


class SignedGrid:
    """Scales of rows or of groups for GPTQ: of both signs, so that the largest weight of a group may be code -8.

    Of several steps for a group of 4 bits the one with the least error, weighed by the energy of each input, then
    fitted to its codes; of ternary ones the best where each weight counts alike, fitted so. Scales are float16 beside
    the largest, as they are packed.
    """

    def __init__(self, w: FloatArray, form: WeightFormat, energy: npt.NDArray[np.floating]) -> None:
        rows, k = w.shape
        self.group = form.group_size or 0
        self._energy, self._bits = energy.astype(np.float32), form.bits
        self._lowest, self._highest = {8: (-127, 127), 4: (-8, 7), 2: (-1, 1)}[form.bits]
        if not self.group:
            self._scale = nearest(w, form).scale.T.copy()
            return
        self._scale = np.ones((-(-k // self.group), rows), np.float32)
        largest = float(np.abs(w).max(initial=0)) / (5 if form.bits == 4 else 1) or 1.0
        self._unit = np.float32(2.0 ** max(-126, int(np.frexp(largest)[1]) - 15))

    def fit(self, first: int, weights: FloatArray) -> None:
        energy = self._energy[first : first + len(weights), None] + np.float32(1e-12)
        if self._bits == 2:
            from edgekern.quantization.methods.ternary import fit_ternary

            scale = self._held(fit_ternary(np.ascontiguousarray(weights.T))[1])
            self._scale[first // self.group] = self._fitted(weights, scale, energy)[0]
            return
        peak = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)[0]
        least = np.full(weights.shape[1], np.inf, np.float32)
        for reach in (*_REACHES, *(-reach for reach in _REACHES)):
            scale, error = self._fitted(weights, self._held(peak / np.float32(-reach)), energy)
            better = error < least
            least[better], self._scale[first // self.group, better] = error[better], scale[better]

    def _fitted(self, weights: FloatArray, scale: FloatArray, energy: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The scale of least error for the codes that ``scale`` gives, and that error."""
        codes = np.rint(weights / scale).clip(self._lowest, self._highest)
        square = (energy * codes * codes).sum(axis=0)
        fitted = (energy * codes * weights).sum(axis=0) / np.where(square > 0, square, 1)
        scale = self._held(np.where(square > 0, fitted, scale))
        return scale, (energy * np.square(codes * scale - weights)).sum(axis=0)

    def round(self, at: int, weights: FloatArray) -> tuple[FloatArray, FloatArray]:
        scale = self._scale[at // self.group if self.group else 0]
        codes = np.rint(weights / scale).clip(self._lowest, self._highest)
        return codes, codes * scale

    def rounded(self, codes: npt.NDArray[np.int8]) -> Rounded:
        """The codes (rows, k) with the scales that they stand for."""
        return Rounded(codes, np.ascontiguousarray(self._scale.T), None, self.group or None, self._bits)

    def refit(self, w: FloatArray, codes: npt.NDArray[np.int8], moments: FloatArray) -> None:
        """Choose the scales of all groups of a row together: by least squares of its output, given its codes."""
        rows, k = w.shape
        firsts = range(0, k, self.group)
        step = max(1, (1 << 22) // k)
        for at in range(0, rows, step):
            c = codes[at : at + step].astype(np.float32)
            aim = np.add.reduceat(c * (w[at : at + step] @ moments), firsts, axis=1)
            both = np.empty((len(c), len(firsts), len(firsts)))
            for index, first in enumerate(firsts):
                part = slice(first, first + self.group)
                both[:, index] = np.add.reduceat((c[:, part] @ moments[part]) * c, firsts, axis=1)
            mean = np.trace(both, axis1=1, axis2=2)[:, None, None] / len(firsts)
            before = self._scale[:, at : at + step].T
            left = aim - np.einsum("rgh,rh->rg", both, before)
            damped = both + (mean * _DAMPING + 1e-30) * np.eye(len(firsts))
            change = np.linalg.solve(damped, left[..., None])[..., 0]
            scale = self._held((before + change).astype(np.float32))
            self._scale[:, at : at + step] = scale.T

    def _held(self, scale: FloatArray) -> FloatArray:
        """As float16 in the unit; a group of nothing has any."""
        held = (scale / self._unit).astype(np.float16).astype(np.float32) * self._unit
        return np.where(np.abs(held) > 0, held, self._unit)
