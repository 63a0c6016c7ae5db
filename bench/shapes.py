"""The matrix shapes that GEMM is measured on, C[m, n] = A[m, k] * B[k, n]."""

from typing import NamedTuple


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
