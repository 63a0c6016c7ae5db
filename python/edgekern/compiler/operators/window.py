"""Geometry of convolution and pooling."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir

from edgekern.graph.values import ints_attribute, known_shape, text_attribute

Pair = tuple[int, int]
MAX_TAPS = 1 << 20  # of a pooling: the sum of an average stays inside int32


@dataclass(frozen=True)
class Window:
    """A window that slides over an image; padding at the end follows from the size of the output."""

    batch: int
    image: Pair
    output: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    pad: Pair = (0, 0)
    is_same: bool = False  # the padding follows from the output: auto_pad SAME_UPPER or SAME_LOWER

    @staticmethod
    def of(node: ir.Node, kernel: Pair | None = None) -> Window:
        """The window of a pooling, or of a Conv, whose kernel the weights give."""
        x, y = known_shape(node.inputs[0]), known_shape(node.outputs[0])
        size = kernel or _pair(ints_attribute(node, "kernel_shape", []))
        stride = _pair(ints_attribute(node, "strides", [1, 1]))
        dilation = _pair(ints_attribute(node, "dilations", [1, 1]))
        image, output = (x[2], x[3]), (y[2], y[3])
        automatic = text_attribute(node, "auto_pad", "NOTSET")
        is_same = automatic in ("SAME_UPPER", "SAME_LOWER")
        if is_same:
            total = [max((output[i] - 1) * stride[i] + (size[i] - 1) * dilation[i] + 1 - image[i], 0) for i in (0, 1)]
            pad = _pair([t // 2 if automatic == "SAME_UPPER" else t - t // 2 for t in total])
        else:
            pad = _pair(ints_attribute(node, "pads", [0, 0, 0, 0])[:2])
        return Window(x[0], image, output, size, stride, dilation, pad, is_same)

    @property
    def steps_over(self) -> bool:
        """Whether the last window ends inside the image: SAME padding would have to be negative."""
        return any((self.output[i] - 1) * self.stride[i] + self._reach(i) < self.image[i] for i in (0, 1))

    @property
    def covers(self) -> bool:
        """Whether each window sees a pixel of the image: dilation can step over a small one."""
        return all(
            any(0 <= at < self.image[i] for at in range(start, start + self._reach(i), self.dilation[i]))
            for i in (0, 1)
            for start in range(-self.pad[i], 0, self.stride[i])
            if (start + self.pad[i]) // self.stride[i] < self.output[i]
        )

    @property
    def fits(self) -> bool:
        """Whether every window begins within reach of the image, as the kernels want it."""
        return all(
            0 <= self.pad[i] <= self.dilation[i] * (self.kernel[i] - 1)
            and (self.output[i] - 1) * self.stride[i] < self.image[i] + self.pad[i]
            for i in (0, 1)
        )

    def _reach(self, axis: int) -> int:
        """Pixels from the first to the last that one window sees."""
        return self.dilation[axis] * (self.kernel[axis] - 1) + 1

    @property
    def overhang(self) -> Pair:
        """Rows and columns behind the image that the last window reaches."""
        reach = [(self.output[i] - 1) * self.stride[i] + self._reach(i) - self.pad[i] for i in (0, 1)]
        return max(reach[0] - self.image[0], 0), max(reach[1] - self.image[1], 0)

    def padded(self) -> Window:
        """The same window over an image that holds its own padding."""
        after = self.overhang
        height, width = (self.image[i] + self.pad[i] + after[i] for i in (0, 1))
        return replace(self, image=(height, width), pad=(0, 0))

    @property
    def pixels(self) -> int:
        return self.batch * self.output[0] * self.output[1]

    @property
    def arguments(self) -> dict[str, int]:
        """Those of a step."""
        pairs = {"in": self.image, "out": self.output, "kernel": self.kernel, "stride": self.stride}
        pairs["dilation"] = self.dilation
        sides = {f"{name}_{side}": pair[i] for name, pair in pairs.items() for i, side in enumerate("hw")}
        return {"batch": self.batch, **sides, "pad_top": self.pad[0], "pad_left": self.pad[1]}


def _pair(values: list[int]) -> Pair:
    first, second = values
    return first, second
