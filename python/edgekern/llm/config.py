"""What a LLaMA-family model is: sizes, norms, rotary positions. One frozen value, whatever file it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from typing import Literal

from edgekern.errors import ArgumentValueError

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_TURN = 1 << 64  # phases count in 2^-64 of a turn

# Sizes past these are no model but a damaged file; they keep every product below 2^63.
LIMITS = {
    "dim": 1 << 17,
    "hidden": 1 << 19,
    "layers": 1 << 12,
    "heads": 1 << 10,
    "kv_heads": 1 << 10,
    "head_dim": 1 << 10,
    "vocab": 1 << 22,
    "context": 1 << 40,
}


@dataclass(frozen=True)
class RopeScaling:
    """How rotary angles are stretched past the trained length.

    ``none``; ``linear`` (all angles divided by ``factor``); ``llama3`` (only those with long wavelengths, blended in
    between); ``yarn`` (Peng et al. 2023: blended by the number of turns within the trained length, logits scaled by
    ``attention``); ``factors`` (each angle divided by its own number, as GGUF's ``rope_freqs.weight`` gives them).
    """

    kind: Literal["none", "linear", "llama3", "yarn", "factors"] = "none"
    factor: float = 1.0
    original_context: int = 0  # llama3, yarn: the length the model was trained with
    low: float = 1.0  # llama3: low_freq_factor
    high: float = 4.0  # llama3: high_freq_factor
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention: float | None = None  # yarn: None is 0.1 ln(factor) + 1
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 1e-6 < self.factor < 1e9:
            raise ArgumentValueError(f"RopeScaling: factor must lie in (1e-6, 1e9), got {self.factor}")
        if self.kind in ("llama3", "yarn") and not 0 < self.original_context <= LIMITS["context"]:
            raise ArgumentValueError(f"RopeScaling: {self.kind} needs original_context, got {self.original_context}")
        if self.kind == "llama3" and not 0 < self.low < self.high < 1e9:
            raise ArgumentValueError(f"RopeScaling: low must be below high, got {self.low} and {self.high}")
        if self.kind == "yarn" and not (0 < self.beta_slow < self.beta_fast < 1e9):
            raise ArgumentValueError(
                f"RopeScaling: beta_slow must be below beta_fast, got {self.beta_slow} and {self.beta_fast}"
            )
        if self.attention is not None and not 1e-3 < self.attention < 1e3:
            raise ArgumentValueError(f"RopeScaling: attention must lie in (0.001, 1000), got {self.attention}")
        if not all(1e-6 < factor < 1e9 for factor in self.factors):
            raise ArgumentValueError("RopeScaling: factors must lie in (1e-6, 1e9)")


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and constants of a LLaMA-family decoder.

    ``window`` is the sliding window the model was trained with (None: it sees everything). ``tied`` says that the head
    is the embedding table; ``qkv_bias`` that q, k and v have biases (Qwen2).
    """

    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    eps: float = 1e-5
    rope_base: float = 10000.0
    rope: RopeScaling = field(default_factory=RopeScaling)
    tied: bool = False
    qkv_bias: bool = False
    window: int | None = None

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= limit:
                raise ArgumentValueError(f"ModelConfig: {name} must be an integer in [1, {limit}], got {value!r}")
        if self.heads % self.kv_heads != 0:
            raise ArgumentValueError(
                f"ModelConfig: {self.heads} heads cannot share {self.kv_heads} kv_heads evenly; make it a multiple"
            )
        if self.head_dim % 2 != 0:
            raise ArgumentValueError(f"ModelConfig: head_dim must be even to be rotated, got {self.head_dim}")
        if not 0 < self.eps < 1:
            raise ArgumentValueError(f"ModelConfig: eps must lie in (0, 1), got {self.eps}")
        if not 1 < self.rope_base < 1e12:
            raise ArgumentValueError(f"ModelConfig: rope_base must lie in (1, 1e12), got {self.rope_base}")
        if self.rope.kind == "factors" and len(self.rope.factors) != self.head_dim // 2:
            raise ArgumentValueError(
                f"ModelConfig: rope has {len(self.rope.factors)} factors; head_dim {self.head_dim} needs half as many"
            )
        if self.window is not None and not 1 <= self.window <= LIMITS["context"]:
            raise ArgumentValueError(f"ModelConfig: window must be at least 1, got {self.window}")

    @property
    def q_width(self) -> int:
        """Columns of q: heads * head_dim."""
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Columns of k, and of v: kv_heads * head_dim."""
        return self.kv_heads * self.head_dim

    def rope_phases(self) -> tuple[int, ...]:
        """How far each pair turns from one position to the next, in 2^-64 of a turn.

        Whole numbers make ``position * phase mod 2^64`` exact at any position, and decimal arithmetic makes them the
        same on every machine, which ``math.pow`` does not.
        """
        with localcontext() as context:
            context.prec = 50
            return tuple(int((angle / (2 * _PI) * _TURN).to_integral_value()) % _TURN for angle in self._angles())

    @property
    def rope_attention(self) -> float:
        """What cos and sin are multiplied by: yarn's sharpening of the attention, else 1."""
        if self.rope.kind != "yarn":
            return 1.0
        if self.rope.attention is not None:
            return self.rope.attention
        with localcontext() as context:
            context.prec = 50
            return float(Decimal("0.1") * Decimal(self.rope.factor).ln() + 1) if self.rope.factor > 1 else 1.0

    def _angles(self) -> list[Decimal]:
        half = self.head_dim // 2
        base, rope = Decimal(self.rope_base), self.rope
        angles = [base ** (-Decimal(2 * i) / Decimal(self.head_dim)) for i in range(half)]
        factor = Decimal(rope.factor)
        if rope.kind == "linear":
            return [angle / factor for angle in angles]
        if rope.kind == "factors":
            return [angle / Decimal(divisor) for angle, divisor in zip(angles, rope.factors, strict=True)]
        if rope.kind == "llama3":
            low, high = Decimal(rope.low), Decimal(rope.high)
            turns = [angle * rope.original_context / (2 * _PI) for angle in angles]
            kept = [min(max((turn - low) / (high - low), Decimal(0)), Decimal(1)) for turn in turns]
            return [angle * keep + angle / factor * (1 - keep) for angle, keep in zip(angles, kept, strict=True)]
        if rope.kind == "yarn":
            first, last = self._yarn_pair(rope.beta_fast), self._yarn_pair(rope.beta_slow)
            low, high = max(Decimal(0), first.to_integral_value("ROUND_FLOOR")), last.to_integral_value("ROUND_CEILING")
            high = min(high, Decimal(self.head_dim - 1))
            if low == high:
                high += Decimal("0.001")
            kept = [1 - min(max((i - low) / (high - low), Decimal(0)), Decimal(1)) for i in map(Decimal, range(half))]
            return [angle * keep + angle / factor * (1 - keep) for angle, keep in zip(angles, kept, strict=True)]
        return angles

    def _yarn_pair(self, turns: float) -> Decimal:
        """The pair (a fraction, perhaps) that makes so many turns within the trained length."""
        length = Decimal(self.rope.original_context) / (Decimal(turns) * 2 * _PI)
        return Decimal(self.head_dim) * length.ln() / (2 * Decimal(self.rope_base).ln())
