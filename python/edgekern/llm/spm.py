"""SentencePiece-style merges by score, as llama2.c's tokenizer.bin and GGUF's ``llama`` vocabulary carry them.

A text is cut into characters; of all neighbors that together are a piece, those of the best score merge first, the
leftmost of equals. Characters that are no piece are written as bytes.
"""

from __future__ import annotations

import heapq
import math
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekern import files
from edgekern.errors import ArtifactError

_MAX_PIECE_BYTES = 1 << 16
_FILE_BYTES, _TOKEN_BYTES = 1 << 20, 256  # what a tokenizer.bin may take, and for each token on average
_BYTE = re.compile(rb"<0x([0-9A-F]{2})>")


class SpmTokenizer:
    """Merges of the best score first.

    Parameters
    ----------
    pieces : bytes of every token, a space being a space
    scores : one a token; the highest merges first
    bos : begins a text, or None
    stops : end a text
    hidden : tokens that no text becomes and that give no text (control tokens)
    lead_space : a text is read with a space before it
    """

    def __init__(
        self,
        pieces: Sequence[bytes],
        scores: Sequence[float],
        *,
        bos: int | None,
        stops: frozenset[int],
        hidden: frozenset[int],
        lead_space: bool = True,
        unknown: int = 0,
    ) -> None:
        self.vocab, self.bos, self.stops = len(pieces), bos, stops
        self._pieces, self._scores, self._hidden = pieces, scores, hidden
        self._lead_space, self._unknown = lead_space, unknown
        self._bytes: dict[int, int] = {}
        ids: dict[bytes, int] = {}
        for token, piece in enumerate(pieces):
            byte = _BYTE.fullmatch(piece)
            if byte:
                self._bytes.setdefault(int(byte[1], 16), token)
            elif token not in hidden:
                ids.setdefault(piece, token)
        self._ids: Mapping[bytes, int] = ids
        self._byte_of = {token: bytes([value]) for value, token in self._bytes.items()}

    def state(self) -> dict[str, Any]:
        """What :func:`restore_spm` makes the same tokenizer of, for a file of JSON: bytes as characters below 256."""
        return {
            "kind": "spm",
            "pieces": [piece.decode("latin-1") for piece in self._pieces],
            "scores": list(self._scores),
            "bos": self.bos,
            "stops": sorted(self.stops),
            "hidden": sorted(self._hidden),
            "lead_space": self._lead_space,
            "unknown": self._unknown,
        }

    def encode(self, text: str, *, bos: bool = True) -> list[int]:
        """Ids of a text."""
        begin = [self.bos] if bos and self.bos is not None else []
        if not text:
            return begin
        parts = [*((" ",) if self._lead_space else ()), *text]
        return begin + self._merge([token for part in parts for token in self._characters(part)])

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; the leading space of a text's first token is dropped, as it was added."""
        begun = not ids or ids[0] == self.bos
        shown = [token for token in ids if token not in self._hidden and token != self.bos]
        data = b"".join(self._byte_of.get(token, self._pieces[token]) for token in shown)
        return (data.removeprefix(b" ") if begun and self._lead_space else data).decode("utf-8", "replace")

    def _characters(self, character: str) -> list[int]:
        data = character.encode("utf-8", "surrogatepass")
        token = self._ids.get(data)
        return [token] if token is not None else [self._bytes.get(byte, self._unknown) for byte in data]

    def _merge(self, tokens: list[int]) -> list[int]:
        after = [*range(1, len(tokens)), -1]
        before = list(range(-1, len(tokens) - 1))
        alive = [True] * len(tokens)
        queue: list[tuple[float, int, int, int, int]] = []

        def offer(left: int) -> None:
            if left < 0 or after[left] < 0:
                return
            right = after[left]
            a, b = tokens[left], tokens[right]
            if a in self._byte_of or b in self._byte_of:
                return
            merged = self._ids.get(self._pieces[a] + self._pieces[b])
            if merged is not None:
                heapq.heappush(queue, (-self._scores[merged], left, a, b, merged))

        for left in range(len(tokens)):
            offer(left)
        while queue:
            _, left, a, b, merged = heapq.heappop(queue)
            right = after[left]
            if not alive[left] or right < 0 or tokens[left] != a or tokens[right] != b:
                continue  # one of the two has merged with another
            tokens[left], alive[right] = merged, False
            after[left] = after[right]
            if after[right] >= 0:
                before[after[right]] = left
            offer(before[left])
            offer(left)
        return [token for token, lives in zip(tokens, alive, strict=True) if lives]


def load_tokenizer_bin(path: Path, vocab: int) -> SpmTokenizer:
    """Read llama2.c's tokenizer.bin: int32 longest piece, then score, length and bytes of every token.

    Raises
    ------
    ArtifactError
        The file does not hold exactly ``vocab`` pieces.
    """
    data = files.read_bytes(path, function="tokenizer", limit=_FILE_BYTES + vocab * _TOKEN_BYTES)
    at = 4
    pieces: list[bytes] = []
    scores: list[float] = []
    for token in range(vocab):
        if at + 8 > len(data):
            raise ArtifactError(f"tokenizer: {path} ends at token {token}; the model has {vocab}")
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= min(_MAX_PIECE_BYTES, len(data) - at) or math.isnan(score):
            raise ArtifactError(f"tokenizer: token {token} of {path} has length {length} and score {score}; damaged")
        pieces.append(data[at : at + length])
        scores.append(score)
        at += length
    if at != len(data):
        raise ArtifactError(f"tokenizer: {path} has {len(data) - at} bytes after the model's {vocab} tokens")
    # Ids 0, 1 and 2 are unknown, begin and end in every file of this kind.
    return SpmTokenizer(pieces, scores, bos=1, stops=frozenset((1, 2)), hidden=frozenset((0, 1, 2)))
