"""Small nets of unlike kinds, written out for torch; ``bench_small_nets`` trains and exports them."""

from collections.abc import Callable

import torch
from torch import nn

WIDTH = 48  # of what goes through the transformers
VOCABULARY = 128  # ASCII


class Net(nn.Module):  # type: ignore[misc]
    """What is not a plain sequence."""


class Residual(Net):
    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Dense(Net):
    """DenseNet's layer: what it makes is laid behind what it got."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], dim=1)


class Excite(Net):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = nn.Conv2d(channels, channels // 4, 1), nn.ReLU(), nn.Conv2d(channels // 4, channels, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), *half, nn.Hardsigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class ChannelsLast(Net):
    """Norms and products over channels, as ConvNeXt has them, with its scale a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        self.body = nn.Sequential(nn.LayerNorm(channels), *wide)
        self.scale = nn.Parameter(0.1 * torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.scale * self.body(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Attention(Net):
    def __init__(self, width: int, heads: int, causal: int = 0) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = torch.full((causal, causal), -1e4).triu(1) if causal else torch.zeros(1, 1)
        self.register_buffer("mask", hidden, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows, tokens, width = x.shape
        parts = self.qkv(x).view(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = parts[0] @ parts[1].transpose(2, 3) / (width // self.heads) ** 0.5 + self.mask
        return self.out((scores.softmax(dim=-1) @ parts[2]).transpose(1, 2).reshape(rows, tokens, width))


class Transpose(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


class Patches(Net):
    """A picture as rows, each with where it lies added."""

    def __init__(self, channels: int, size: int, tokens: int, width: int) -> None:
        super().__init__()
        self.cut = nn.Conv2d(channels, width, size, size)
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cut(x).flatten(2).transpose(1, 2) + self.place


class Letters(Net):
    """Letters as rows, each with where it stands added."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.letters = nn.Embedding(VOCABULARY, width)
        self.place = nn.Parameter(0.02 * torch.randn(1, tokens, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.letters(x) + self.place


class MeanOfTokens(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=1)


class LastState(Net):
    """What a recurrent layer gives at its last step."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)[0][:, -1]


class UNet(Net):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.first, self.pool = nn.Sequential(*_twice(1, 16)), nn.MaxPool2d(2)
        self.second, self.third = nn.Sequential(*_twice(16, 32)), nn.Sequential(*_twice(32, 32))
        self.up = nn.ModuleList([nn.ConvTranspose2d(32, 32, 2, 2), nn.ConvTranspose2d(32, 16, 2, 2)])
        self.join = nn.ModuleList([nn.Sequential(*_twice(64, 32)), nn.Sequential(*_twice(32, 16))])
        self.head = nn.Conv2d(16, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(x)
        second = self.second(self.pool(first))
        x = self.join[0](torch.cat([second, self.up[0](self.third(self.pool(second)))], dim=1))
        return self.head(self.join[1](torch.cat([first, self.up[1](x)], dim=1)))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups)


def _normed(*shape: int) -> tuple[nn.Module, nn.Module]:
    return _conv(*shape), nn.BatchNorm2d(shape[1])


def _twice(inputs: int, outputs: int) -> list[nn.Module]:
    return [*_normed(inputs, outputs), nn.ReLU(), *_normed(outputs, outputs), nn.ReLU()]


def _head(channels: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)


def _perceptron(width: int, factor: int = 3) -> Residual:
    wide = nn.Linear(width, factor * width), nn.GELU(), nn.Linear(factor * width, width)
    return Residual(nn.LayerNorm(width), *wide)


def plain() -> nn.Module:
    """VGG: convolutions, ReLU and pooling, no norm."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [_conv(inputs, outputs), nn.ReLU(), _conv(outputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 16, 64), nn.ReLU(), nn.Linear(64, 10))


def tanh() -> nn.Module:
    """LeNet: Tanh and mean pooling."""
    first = nn.Conv2d(1, 8, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 16, 5), nn.Tanh(), nn.AvgPool2d(2)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(256, 64), nn.Tanh(), nn.Linear(64, 10))


def residual() -> nn.Module:
    """Pre-activated residual blocks with LeakyReLU: sums that no activation bounds."""

    def block(c: int) -> Residual:
        first = nn.BatchNorm2d(c), nn.LeakyReLU(0.1), *_normed(c, c)
        return Residual(*first, nn.LeakyReLU(0.1), _conv(c, c))

    stages = [_conv(3, 16), block(16), block(16), _conv(16, 32, 3, 2), block(32), block(32), _conv(32, 64, 3, 2)]
    return nn.Sequential(*stages, block(64), nn.BatchNorm2d(64), nn.LeakyReLU(0.1), *_head(64))


def mobile() -> nn.Module:
    """MobileNetV2: inverted residuals, depthwise, ReLU6."""

    def block(i: int, o: int, stride: int = 1) -> nn.Module:
        wide = 4 * i
        into = *_normed(i, wide, 1), nn.ReLU6(), *_normed(wide, wide, 3, stride, wide), nn.ReLU6()
        body = *into, *_normed(wide, o, 1)
        return Residual(*body) if stride == 1 and i == o else nn.Sequential(*body)

    blocks = [block(16, 16), block(16, 24, 2), block(24, 24), block(24, 40, 2), block(40, 40)]
    return nn.Sequential(*_normed(3, 16), nn.ReLU6(), *blocks, *_normed(40, 128, 1), nn.ReLU6(), *_head(128))


def excite() -> nn.Module:
    """MobileNetV3: hard-swish, squeeze and excitation, 5x5 depthwise."""

    def block(i: int, o: int, stride: int = 1) -> nn.Module:
        wide = 3 * i
        into = *_normed(i, wide, 1), nn.Hardswish(), *_normed(wide, wide, 5, stride, wide), Excite(wide)
        body = *into, nn.Hardswish(), *_normed(wide, o, 1)
        return Residual(*body) if stride == 1 and i == o else nn.Sequential(*body)

    blocks = [block(16, 24, 2), block(24, 24), block(24, 40, 2), block(40, 40)]
    return nn.Sequential(*_normed(3, 16), nn.Hardswish(), *blocks, *_normed(40, 128, 1), nn.Hardswish(), *_head(128))


def dense() -> nn.Module:
    """DenseNet: everything is laid behind everything before."""
    layers, channels = [_conv(3, 24)], 24
    for at in range(9):
        into = nn.BatchNorm2d(channels), nn.ReLU(), *_normed(channels, 32, 1), nn.ReLU()
        layers.append(Dense(nn.Sequential(*into, _conv(32, 12))))
        channels += 12
        if at % 3 == 2 and at < 8:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), _conv(channels, channels // 2, 1), nn.AvgPool2d(2)]
            channels //= 2
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *_head(channels))


def swish() -> nn.Module:
    """SiLU and GroupNorm, as in diffusion models."""

    def block(c: int) -> Residual:
        return Residual(nn.GroupNorm(4, c), nn.SiLU(), _conv(c, c), nn.GroupNorm(4, c), nn.SiLU(), _conv(c, c))

    stages = [_conv(3, 16), block(16), _conv(16, 32, 3, 2), block(32), _conv(32, 64, 3, 2), block(64)]
    return nn.Sequential(*stages, nn.GroupNorm(4, 64), nn.SiLU(), *_head(64))


def convnext() -> nn.Module:
    """ConvNeXt: 7x7 depthwise, LayerNorm and GELU over channels."""

    def block(c: int) -> Residual:
        return Residual(_conv(c, c, 7, 1, c), ChannelsLast(c))

    stages = [nn.Conv2d(3, 32, 2, 2), block(32), block(32), nn.Conv2d(32, 64, 2, 2), block(64), block(64)]
    return nn.Sequential(*stages, *_head(64))


def darknet() -> nn.Module:
    """Darknet: wide 3x3 behind narrow 1x1, LeakyReLU, norms, strides for pooling."""
    layers: list[nn.Module] = [*_normed(3, 16), nn.LeakyReLU(0.1)]
    for c in (16, 32, 64):
        layers += [*_normed(c, 2 * c, 3, 2), nn.LeakyReLU(0.1)]
        body = *_normed(2 * c, c, 1), nn.LeakyReLU(0.1), *_normed(c, 2 * c), nn.LeakyReLU(0.1)
        layers.append(Residual(*body))
    return nn.Sequential(*layers, *_head(128))


def vit() -> nn.Module:
    """A vision transformer of four layers."""
    layers = [(Residual(nn.LayerNorm(WIDTH), Attention(WIDTH, 4)), _perceptron(WIDTH)) for _ in range(4)]
    blocks = [part for layer in layers for part in layer]
    last = nn.LayerNorm(WIDTH), MeanOfTokens(), nn.Linear(WIDTH, 10)
    return nn.Sequential(Patches(1, 4, 49, WIDTH), *blocks, *last)


def mixer() -> nn.Module:
    """MLP-Mixer: products over places and over channels in turn."""
    mix = [
        Residual(nn.LayerNorm(WIDTH), Transpose(), nn.Linear(49, 96), nn.GELU(), nn.Linear(96, 49), Transpose())
        for _ in range(4)
    ]
    blocks = [part for at in mix for part in (at, _perceptron(WIDTH))]
    last = nn.LayerNorm(WIDTH), MeanOfTokens(), nn.Linear(WIDTH, 10)
    return nn.Sequential(Patches(1, 4, 49, WIDTH), *blocks, *last)


def letters() -> nn.Module:
    """A causal transformer that says the next letter."""
    layers = [(Residual(nn.LayerNorm(WIDTH), Attention(WIDTH, 4, causal=64)), _perceptron(WIDTH)) for _ in range(3)]
    blocks = [part for layer in layers for part in layer]
    return nn.Sequential(Letters(64, WIDTH), *blocks, nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY))


def lstm() -> nn.Module:
    """An LSTM that reads a digit row by row."""
    return nn.Sequential(nn.Flatten(1, 2), LastState(nn.LSTM(28, 64, batch_first=True)), nn.Linear(64, 10))


def sound() -> nn.Module:
    """Convolutions over time and a GRU behind them."""
    body = Transpose(), nn.Conv1d(10, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, 32, 5, 2, 2), nn.ReLU(), Transpose()
    return nn.Sequential(nn.Flatten(1, 2), *body, LastState(nn.GRU(32, 48, batch_first=True)), nn.Linear(48, 12))


def unet() -> nn.Module:
    """A U-Net that says of every pixel which digit it belongs to, or none."""
    return UNet(11)


# What each is trained on (bench_small_nets), for how many batches, and how it is made.
NETS: dict[str, tuple[str, int, Callable[[], nn.Module]]] = {
    "plain": ("pictures", 400, plain),
    "tanh": ("digits", 1500, tanh),
    "residual": ("pictures", 400, residual),
    "mobile": ("pictures", 400, mobile),
    "excite": ("pictures", 400, excite),
    "dense": ("pictures", 400, dense),
    "swish": ("pictures", 400, swish),
    "convnext": ("pictures", 400, convnext),
    "darknet": ("pictures", 400, darknet),
    "vit": ("digits", 400, vit),
    "mixer": ("digits", 400, mixer),
    "letters": ("letters", 400, letters),
    "lstm": ("digits", 1500, lstm),
    "sound": ("sounds", 1500, sound),
    "unet": ("places", 400, unet),
}
