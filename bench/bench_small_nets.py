"""Train and export small nets of unlike kinds: ``python -m bench small_nets FOLDER [--only NAME ...] [--times 1]``.

Fifteen nets (``bench.small_nets``) learn from the data that ``EDGEKERN_TEST_DATA`` names: CIFAR-10, MNIST, keywords,
Shakespeare. Seeds are fixed, one thread trains. FOLDER gets ``NAME.onnx``, one sample a run, and ``NAME.npz``: samples
to calibrate with, which it was trained on, others to be judged on, and what those are. ``python -m bench
peers_accuracy FOLDER`` quantizes them. Needs torch, which nothing else here does; what is there already is kept.
"""

import argparse
import gzip
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bench.datasets import DATA_ROOT, TASKS
from bench.harness import Row, print_table

Array = npt.NDArray[Any]

CALIBRATION, JUDGED, BATCH, RATE = 256, 1000, 64, 3e-3


class Data(NamedTuple):
    """To learn from, and to be judged on; ``axis`` is that of the classes in the answer."""

    x: Array
    y: Array
    judged: Array
    labels: Array
    axis: int = 1


def pictures() -> Data:
    with np.load(DATA_ROOT / "cifar10" / "cifar10_train_10000.npz") as train:
        x, y = _standard(train["x"]), train["y"].astype(np.int64)
    with np.load(DATA_ROOT / "cifar10" / "cifar10_test_5000.npz") as test:
        every = slice(None, None, len(test["x"]) // JUDGED)  # they lie sorted by class
        return Data(x, y, _standard(test["x"][every]), test["y"][every].astype(np.int64))


def _standard(images: Array) -> Array:
    """Channels first, of mean 0 and deviation 1, nearly."""
    return np.ascontiguousarray((images.transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.47) / 0.25, np.float32)


def digits() -> Data:
    x, y = (_idx(DATA_ROOT / "mnist" / f"t10k-{name}-ubyte.gz") for name in ("images-idx3", "labels-idx1"))
    x, y = (x[:, None].astype(np.float32) / 255 - 0.13) / 0.31, y.astype(np.int64)
    x = x.astype(np.float32)
    return Data(x[:-JUDGED], y[:-JUDGED], x[-JUDGED:], y[-JUDGED:])


def _idx(path: Path) -> Array:
    raw = gzip.decompress(path.read_bytes())
    sides = np.frombuffer(raw, ">u4", raw[3], 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(tuple(map(int, sides)))


def places() -> Data:
    """Digits on patches of gray, and what every pixel is: 0 to 9, or 10 for none."""
    rng, flat = np.random.default_rng(0), digits()

    def drawn(x: Array, y: Array) -> tuple[Array, Array]:
        shade = rng.uniform(0, 1.5, (len(x), 1, 7, 7)).repeat(4, axis=2).repeat(4, axis=3)
        noisy = np.maximum(x, x.min() + shade) + rng.normal(0, 0.2, x.shape)
        return noisy.astype(np.float32), np.where(x[:, 0] > 0.5, y[:, None, None], 10)

    return Data(*drawn(flat.x, flat.y), *drawn(flat.judged, flat.labels))


def sounds() -> Data:
    fold = TASKS["keywords"].load()[0]
    x, y = np.concatenate([fold.calibration, fold.samples[:100]]), fold.samples[100:]
    first = TASKS["keywords"].load()[1]
    labels = np.concatenate([first.labels, fold.labels[:100]])
    middle, spread = x.mean(), x.std()
    return Data((x - middle) / spread, labels, (y - middle) / spread, fold.labels[100:])


def letters() -> Data:
    """Windows of 64 letters of Shakespeare, and the letters one further on."""
    text = np.frombuffer((DATA_ROOT / "text" / "tinyshakespeare.txt").read_bytes(), np.uint8).astype(np.int64) % 128
    windows = np.lib.stride_tricks.sliding_window_view(text, 65)[::32]
    x, y = windows[:, :-1], windows[:, 1:]
    return Data(x[:-200], y[:-200], x[-200:], y[-200:], axis=2)


DATA: dict[str, Callable[[], Data]] = {made.__name__: made for made in (pictures, digits, places, sounds, letters)}


def train(net: Any, data: Data, steps: int) -> Any:
    """The net that has learnt for so many steps, ready to answer. The rate rises for a tenth of them, then falls."""
    import torch

    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1.0, weight_decay=0.05)
    x, y = torch.from_numpy(data.x.copy()), torch.from_numpy(data.y.copy())
    rng = np.random.default_rng(0)
    for step in range(steps):
        rows = torch.from_numpy(rng.integers(0, len(x), BATCH))
        batch = x[rows] if x.ndim != 4 else x[rows].to(memory_format=torch.channels_last)
        if data.x.shape[1:] == (3, 32, 32) and rng.random() < 0.5:
            batch = batch.flip(3)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1 - step / steps, 10 * (step + 1) / steps)
        answer = net(batch).movedim(data.axis, 1)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(answer, y[rows]).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return net.eval()


def export(net: Any, data: Data, folder: Path, name: str) -> Row:
    """Its files; how often it is right on what it is judged on."""
    import torch

    sample = torch.from_numpy(data.judged[:1].copy())
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"]}
    target = folder / f"{name}.onnx"
    np.savez(
        folder / f"{name}.npz",
        calibration=data.x[np.linspace(0, len(data.x) - 1, min(CALIBRATION, len(data.x))).astype(int)],
        judged=data.judged,
        labels=data.labels,
        axis=data.axis,
    )
    torch.onnx.export(
        net.to(memory_format=torch.contiguous_format), (sample,), target, dynamo=False, opset_version=17, **names
    )
    with torch.no_grad():
        answer = torch.cat([net(torch.from_numpy(part.copy())) for part in np.array_split(data.judged, 10)])
    right = (answer.argmax(dim=data.axis).numpy() == data.labels).mean()
    return {"net": name, "bytes": target.stat().st_size, "judged": len(data.judged), "top-1": 100 * float(right)}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench small_nets", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    parser.add_argument("--times", type=float, default=1, help="so many times the steps of learning")
    options = parser.parse_args(argv)
    import torch

    from bench.small_nets import NETS

    torch.set_num_threads(1)
    options.folder.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for name, (kind, steps, make) in NETS.items():
        if (options.only and name not in options.only) or (options.folder / f"{name}.onnx").exists():
            continue
        data = DATA[kind]()
        start = time.monotonic()
        torch.manual_seed(0)
        net = train(make(), data, max(int(options.times * steps), 1))
        rows.append({**export(net, data, options.folder, name), "seconds": time.monotonic() - start})
        print(f"{name}: {rows[-1]['seconds']:.0f} s", file=sys.stderr)
    print_table(rows, {"net": "", "bytes": "d", "judged": "d", "top-1": ".2f", "seconds": ".1f"})
    return 0
