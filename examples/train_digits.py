"""Train the quickstart's CNN on scikit-learn's handwritten digits and write it as package data.

    pip install torch==2.13.0 scikit-learn onnx
    python examples/train_digits.py

Writes ``digits.onnx`` (the trained float model, opset 17, batch dimension "N") and ``digits.npz`` (the 1797 images as
uint8 0..16 with their labels, split into training and held-out parts) into ``python/edgekern/quickstart``. Takes about
a minute on one core. BatchNormalization stays in the file as a node of its own: folding it is the quantizer's work.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

SEED = 2026
HELD_OUT = 600
EPOCHS = 60
BATCH = 64
DEFAULT_FOLDER = Path(__file__).resolve().parents[1] / "python" / "edgekern" / "quickstart"


class ConvBnRelu(nn.Sequential):
    """Convolution without bias, batch normalization and, except before a residual add, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, relu: bool = True):
        layers: list[tuple[str, nn.Module]] = [
            ("conv", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)),
            ("bn", nn.BatchNorm2d(outputs)),
        ]
        super().__init__()
        for name, layer in layers + [("relu", nn.ReLU())] * relu:
            self.add_module(name, layer)


class DigitsNet(nn.Module):
    """A CNN for 8x8 digits with one of everything: residual add, depthwise convolution, both poolings, Gemm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBnRelu(1, 32, 3)
        self.residual1 = ConvBnRelu(32, 32, 3)
        self.residual2 = ConvBnRelu(32, 32, 3, relu=False)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.depthwise = ConvBnRelu(32, 32, 3, groups=32)
        self.pointwise = ConvBnRelu(32, 96, 1)
        self.head = ConvBnRelu(96, 64, 3)
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        x = self.relu(x + self.residual2(self.residual1(x)))
        x = self.head(self.pointwise(self.depthwise(self.pool(x))))
        logits: Tensor = self.classifier(self.flatten(self.mean(x)))
        return logits


def shift(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move every image by up to one pixel in each direction: the only augmentation."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(images), 2), generator=generator).tolist()
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, offsets, strict=True)])


def train(images: Tensor, labels: Tensor) -> DigitsNet:
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    model = DigitsNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps_per_epoch = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=EPOCHS * steps_per_epoch)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(images), generator=generator)[: steps_per_epoch * BATCH]
        total = 0.0
        for batch in order.split(BATCH):
            loss = nn.functional.cross_entropy(model(shift(images[batch], generator)), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1:2d}  loss {total / steps_per_epoch:.4f}", flush=True)
    model.eval()
    return model


def export(model: DigitsNet, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the TorchScript exporter announces its successor
        torch.onnx.export(
            model,
            (torch.zeros(1, 1, 8, 8),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE,  # keeps BatchNormalization as a node
            dynamo=False,
        )
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    onnx.save(proto, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="where digits.onnx and digits.npz go")
    folder: Path = parser.parse_args().folder

    torch.set_num_threads(1)  # one thread, one order of additions: the same file every time on one machine
    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    train_images, held_images, train_labels, held_labels = train_test_split(
        images, labels, test_size=HELD_OUT, random_state=SEED, stratify=labels
    )

    def as_input(pixels: np.ndarray) -> Tensor:
        return torch.from_numpy(pixels[:, None].astype(np.float32) / 16)

    model = train(as_input(train_images), torch.from_numpy(train_labels.astype(np.int64)))
    with torch.no_grad():
        predicted = model(as_input(held_images)).argmax(1).numpy()
    print(f"held-out accuracy {np.mean(predicted == held_labels):.4f} on {len(held_labels)} digits")

    folder.mkdir(parents=True, exist_ok=True)
    export(model, folder / "digits.onnx")
    np.savez_compressed(
        folder / "digits.npz",
        train_images=train_images,
        train_labels=train_labels,
        held_out_images=held_images,
        held_out_labels=held_labels,
    )
    for name in ("digits.onnx", "digits.npz"):
        print(f"{name} {(folder / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
