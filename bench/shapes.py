"""The matrix shapes that GEMM is measured on, C[m, n] = A[m, k] * B[k, n]."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Up to so many rows a product is bound by reading its weights.
DECODE_ROWS = 16
_ODD_SEED, _NUM_ODD, _LARGEST_ODD = 3, 40, 1500


class Shape(NamedTuple):
    m: int
    n: int
    k: int
    what: str

    @property
    def operations(self) -> int:
        """Multiplications and additions, counted apart."""
        return 2 * self.m * self.n * self.k

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"


GEMM_SHAPES = (
    Shape(1, 4096, 4096, "decode, one token"),
    Shape(4, 4096, 4096, "decode, four tokens"),
    Shape(16, 4096, 4096, "skinny"),
    Shape(64, 4096, 4096, "prefill"),
    Shape(256, 4096, 4096, "prefill"),
    Shape(1024, 1024, 1024, "square"),
    Shape(2048, 2048, 2048, "square"),
    Shape(4096, 4096, 128, "16 x 16 Cube blocks, shallow"),
    Shape(1024, 1024, 128, "shallow"),
    Shape(64, 64, 64, "one small block"),
    Shape(128, 128, 128, "small"),
    Shape(256, 256, 256, "one Cube block"),
    Shape(384, 384, 384, "a Cube block and tails"),
    Shape(1, 1024, 1024, "classifier"),
    Shape(197, 768, 768, "ViT-B attention projection"),
    Shape(12544, 64, 147, "ResNet-50 stem"),
    Shape(3136, 64, 576, "ResNet-50 3x3, 56x56"),
    Shape(49, 2048, 512, "ResNet-50 1x1, 7x7"),
)

TINY_SHAPES = (Shape(1, 80, 64, "tiny"), Shape(17, 33, 65, "tiny"), Shape(64, 64, 64, "tiny"))


def _odd_shapes() -> tuple[Shape, ...]:
    """Sizes that nobody tunes for: half of them even over their range, half with every magnitude alike."""
    rng = np.random.default_rng(_ODD_SEED)
    even = rng.integers(1, _LARGEST_ODD + 1, (_NUM_ODD // 2, 3))
    skewed = np.exp(rng.uniform(0, np.log(_LARGEST_ODD), (_NUM_ODD - len(even), 3))).astype(np.int64)
    return tuple(Shape(int(m), int(n), int(k), "odd") for m, n, k in (*even, *skewed))


ODD_SHAPES = _odd_shapes()

# The share of the dot-product peak that each peer is known to reach at one thread with warm weights, and the fastest
# of them at two (torch 2.13 and onnxruntime 1.31 on AVX-512 VNNI, two dot products a cycle). One that stands well below
# was not set up well, or was disturbed.
FASTEST_PEER = "the fastest peer"
_PEERS = ("torch_int_mm", "ort_integer", "ort_qlinear", "torch_x86", "torch_onednn", FASTEST_PEER)
_SHARES: Mapping[tuple[int, int, int], tuple[float, ...]] = {
    (64, 4096, 4096): (0.504, 0.694, 0.595, 0.656, 0.783, 0.935),
    (256, 4096, 4096): (0.771, 0.800, 0.692, 0.739, 0.882, 0.925),
    (1024, 1024, 1024): (0.908, 0.848, 0.796, 0.806, 0.890, 0.950),
    (2048, 2048, 2048): (0.922, 0.638, 0.644, 0.845, 0.900, 0.980),
    (4096, 4096, 128): (0.853, 0.726, 0.485, 0.402, 0.696, 0.895),
    (1024, 1024, 128): (0.880, 0.842, 0.566, 0.562, 0.693, 0.915),
    (64, 64, 64): (0.243, 0.182, 0.134, 0.040, 0.032, 0.095),
    (128, 128, 128): (0.572, 0.602, 0.426, 0.223, 0.201, 0.445),
    (256, 256, 256): (0.855, 0.846, 0.672, 0.545, 0.606, 0.760),
    (384, 384, 384): (0.887, 0.876, 0.741, 0.698, 0.764, 0.840),
    (197, 768, 768): (0.869, 0.874, 0.789, 0.801, 0.833, 0.870),
    (12544, 64, 147): (0.695, 0.659, 0.507, 0.399, 0.693, 0.695),
    (3136, 64, 576): (0.742, 0.742, 0.670, 0.606, 0.736, 0.740),
    (49, 2048, 512): (0.647, 0.797, 0.705, 0.709, 0.690, 0.725),
}


def peer_shares(shape: Shape, threads: int) -> dict[str, float]:
    """What peers are known to reach on this shape; empty where reading binds, which is another machine's memory."""
    shares = dict(zip(_PEERS, _SHARES.get(shape[:3], ()), strict=False))
    fastest = shares.pop(FASTEST_PEER, None)
    if threads == 1:
        return shares
    return {} if fastest is None or threads != 2 else {FASTEST_PEER: fastest}
