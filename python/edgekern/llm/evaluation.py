"""What quantization costs a model: perplexity, distance from the float model, and how often the best token stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekern.errors import ArgumentValueError
from edgekern.llm.decoder import Decoder, log_softmax


@dataclass(frozen=True)
class Evaluation:
    """One format on some texts.

    Attributes
    ----------
    name : of the format
    perplexity : exp of the mean of -log p
    kl_divergence : mean of KL(reference || this) over all predictions, natural; 0 for the reference itself
    same_top1 : share of predictions whose likeliest token is the reference's
    tokens : predictions
    weight_bytes, kv_bytes : memory of weights and cache
    """

    name: str
    perplexity: float
    kl_divergence: float
    same_top1: float
    tokens: int
    weight_bytes: int
    kv_bytes: int


class _Sums:
    def __init__(self) -> None:
        self.loss = self.divergence = 0.0
        self.same = self.tokens = 0


def evaluate(
    reference: Decoder,
    candidates: dict[str, Decoder],
    texts: Sequence[Sequence[int]],
    *,
    advance: Callable[[], None] = lambda: None,
) -> list[Evaluation]:
    """Run texts through a float model and others side by side; no more logits than one chunk's are in memory.

    Parameters
    ----------
    reference : whose distributions the others are compared with; the first row
    candidates : others by name, with the same ``max_chunk``
    texts : token ids; each is a new sequence
    advance : called after every text

    Raises
    ------
    ArgumentValueError
        No text has two tokens.
    """
    decoders = {"reference": reference, **candidates}
    sums = {name: _Sums() for name in decoders}
    chunk = min(decoder.cache.max_chunk for decoder in decoders.values())
    for ids in texts:
        for decoder in decoders.values():
            decoder.cache.reset()
        for first in range(0, len(ids) - 1, chunk):
            part = ids[first : min(first + chunk, len(ids) - 1)]
            targets = np.asarray(ids[first + 1 : first + 1 + len(part)])
            expected = log_softmax(reference.logits(part))
            p, best = np.exp(expected), expected.argmax(axis=-1)
            for name, decoder in decoders.items():
                got = expected if decoder is reference else log_softmax(decoder.logits(part))
                total = sums[name]
                total.loss -= float(got[np.arange(len(part)), targets].sum())
                total.divergence += float((p * (expected - got)).sum())
                total.same += int((got.argmax(axis=-1) == best).sum())
                total.tokens += len(part)
        advance()
    if sums["reference"].tokens == 0:
        raise ArgumentValueError("evaluate: a text of at least two tokens is needed")
    return [
        Evaluation(
            name,
            float(np.exp(total.loss / total.tokens)),
            total.divergence / total.tokens,
            total.same / total.tokens,
            total.tokens,
            decoders[name].weight_bytes,
            decoders[name].cache.nbytes,
        )
        for name, total in sums.items()
    ]
