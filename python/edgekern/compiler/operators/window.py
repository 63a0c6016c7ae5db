"""Geometry of convolution and pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir

from edgekern.graph.values import ints_attribute, known_shape, text_attribute

MAX_TAPS = 1 << 20  # of a pooling: the sum of an average stays inside int32
SPATIAL = 3  # dimensions that a kernel takes
_SIZES = ("in", "out", "kernel", "stride", "dilation", "pad")


@dataclass(frozen=True)
class Window:
    """A window over up to three dimensions, those in front filled up; padding behind follows from the output."""

    batch: int
    sizes: dict[str, list[int]]  # in, out, kernel, stride, dilation, pad
    is_same: bool = False  # the padding follows from the output: auto_pad SAME_UPPER or SAME_LOWER

    @staticmethod
    def of(node: ir.Node, kernel: tuple[int, ...]) -> Window:
        """The window of a Conv, a ConvTranspose or a pooling."""
        x, y = known_shape(node.inputs[0]), known_shape(node.outputs[0])
        rank = len(x) - 2
        stride = ints_attribute(node, "strides", [1] * rank)
        dilation = ints_attribute(node, "dilations", [1] * rank)
        pad = ints_attribute(node, "pads", [0] * 2 * rank)[:rank]
        automatic = text_attribute(node, "auto_pad", "NOTSET")
        is_same = automatic in ("SAME_UPPER", "SAME_LOWER")
        if is_same:
            wide, small = (y[2:], x[2:]) if node.op_type == "ConvTranspose" else (x[2:], y[2:])
            reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
            total = [max((o - 1) * s + r - i, 0) for o, s, r, i in zip(small, stride, reach, wide, strict=True)]
            pad = [t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in total]
        elif node.op_type == "ConvTranspose" and "output_shape" in node.attributes:  # with VALID, too
            pad = _transposed_pads(node, x[2:], y[2:], kernel, stride, dilation)
        elif automatic == "VALID":
            pad = [0] * rank
        values = {"in": x[2:], "out": y[2:], "kernel": kernel, "stride": stride, "dilation": dilation, "pad": pad}
        fillers = {"pad": 0}
        sizes = {
            name: [fillers.get(name, 1)] * (SPATIAL - rank) + [int(item) for item in given]
            for name, given in values.items()
        }
        return Window(x[0], sizes, is_same)

    @staticmethod
    def whole(shape: tuple[int, ...]) -> Window:
        """A window as large as the image."""
        image = [1] * (SPATIAL + 2 - len(shape)) + list(shape[2:])
        ones = [1] * SPATIAL
        sizes = {"in": image, "out": ones, "kernel": image, "stride": ones, "dilation": ones, "pad": [0] * SPATIAL}
        return Window(shape[0], sizes)

    @property
    def arguments(self) -> dict[str, Any]:
        """Those of a step."""
        return {"batch": self.batch, **self.sizes}

    @property
    def flat_arguments(self) -> dict[str, int]:
        """Those of a step over height and width."""
        names = {f"{name}_{side}": self.sizes[name][at] for name in _SIZES[:-1] for at, side in ((-2, "h"), (-1, "w"))}
        return {"batch": self.batch, **names, "pad_top": self.sizes["pad"][-2], "pad_left": self.sizes["pad"][-1]}

    @property
    def fits(self) -> bool:
        """Whether every window begins within reach of the image, as the kernels want it."""
        return all(
            0 <= pad <= dilation * (kernel - 1) and (out - 1) * stride < image + pad
            for image, out, kernel, stride, dilation, pad in self._axes
        )

    @property
    def turned(self) -> Window:
        """Of a ConvTranspose: the window that leads from its result back to its input."""
        return replace(self, sizes={**self.sizes, "in": self.sizes["out"], "out": self.sizes["in"]})

    def padded(self) -> Window:
        """The same window over an image that holds its own padding."""
        image = [
            size + pad + max(over, 0)
            for size, pad, over in zip(self.sizes["in"], self.sizes["pad"], self.overhang, strict=True)
        ]
        return replace(self, sizes={**self.sizes, "in": image, "pad": [0] * SPATIAL})

    @property
    def covers(self) -> bool:
        """Whether each window sees a pixel of the image: dilation can step over a small one."""
        return all(
            any(0 <= at < image for at in range(start, start + (kernel - 1) * dilation + 1, dilation))
            for image, out, kernel, stride, dilation, pad in self._axes
            for start in range(-pad, 0, stride)
            if (start + pad) // stride < out
        )

    @property
    def steps_over(self) -> bool:
        """Whether the last window ends inside the image: SAME padding would have to be negative."""
        return any(pad + over < 0 for pad, over in zip(self.sizes["pad"], self.overhang, strict=True))

    @property
    def overhang(self) -> list[int]:
        """How far the last window reaches behind the image, along each axis."""
        return [
            (out - 1) * stride + (kernel - 1) * dilation + 1 - pad - image
            for image, out, kernel, stride, dilation, pad in self._axes
        ]

    @property
    def _axes(self) -> list[tuple[int, ...]]:
        return list(zip(*(self.sizes[name] for name in _SIZES), strict=True))

    @property
    def taps(self) -> int:
        return math.prod(self.sizes["kernel"])


def _transposed_pads(node: ir.Node, x: Any, y: Any, kernel: Any, stride: Any, dilation: Any) -> list[int]:
    """Padding of a ConvTranspose that says how large its result is (ONNX: half of it in front, but for SAME_LOWER)."""
    extra = ints_attribute(node, "output_padding", [0] * len(x))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    total = [max(s * (i - 1) + e + r - o, 0) for s, i, e, r, o in zip(stride, x, extra, reach, y, strict=True)]
    upper = text_attribute(node, "auto_pad", "NOTSET") == "SAME_UPPER"
    return [t // 2 if upper else t - t // 2 for t in total]
