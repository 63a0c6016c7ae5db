"""The mean of each channel of the activations that weights multiply, from sample data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from edgekern.calibration import Feeds
from edgekern.errors import ArgumentTypeError, QuantizationError


def channel_means(
    model: onnx.ModelProto, axes: Mapping[str, int], data: Iterable[Feeds]
) -> dict[str, npt.NDArray[np.float64]]:
    """Run the float model on every batch of ``data`` and average the tensors that ``axes`` names.

    Parameters
    ----------
    model : onnx.ModelProto
    axes : mapping of tensor name to its channel axis
    data : iterable of feeds, as for ``Calibrator.collect_many``

    Returns
    -------
    dict of tensor name to (channels,) float64 array
        Every finite element counts the same; a channel without one has mean 0.

    Raises
    ------
    ArgumentTypeError
        When ``data`` holds something else than feeds.
    QuantizationError
        When it holds nothing, or onnxruntime cannot run a batch of it.
    """
    if isinstance(data, Mapping):
        raise ArgumentTypeError("quantize: data must be an iterable of feeds, got one feeds; put it in a list")
    sums: dict[str, npt.NDArray[np.float64]] = {}
    counts: dict[str, npt.NDArray[np.int64]] = {}
    session, tapped = _tap(model, axes)
    empty = True
    for feeds in data:
        if not isinstance(feeds, Mapping):
            raise ArgumentTypeError(f"quantize: data must hold feeds (name to array), got {type(feeds).__name__}")
        try:
            values = dict(zip(tapped, session.run(tapped, dict(feeds)) if tapped else [], strict=True))
        except Exception as error:
            reason = " ".join(str(error).split())
            raise QuantizationError(f"quantize: onnxruntime could not run a batch of data: {reason}") from error
        for name, axis in axes.items():
            value = np.asarray(values.get(name, feeds.get(name)))
            others = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
            finite = np.isfinite(value)
            total = np.where(finite, value, 0).sum(axis=others, dtype=np.float64)
            sums[name] = sums.get(name, np.zeros_like(total)) + total
            counts[name] = counts.get(name, np.zeros(total.shape, np.int64)) + finite.sum(axis=others)
        empty = False
    if empty:
        raise QuantizationError("quantize: data holds no batch; give the batches that were calibrated on, or data=None")
    return {name: sums[name] / np.maximum(counts[name], 1) for name in axes}


def _tap(model: onnx.ModelProto, names: Iterable[str]) -> tuple[Any, Sequence[str]]:
    """A session that also returns the named tensors, and those of them that are not inputs."""
    import onnxruntime

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = {value.name for value in copy.graph.input}
    outputs = {value.name for value in copy.graph.output}
    tapped = [name for name in names if name not in inputs]
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tapped if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )
    return session, tapped
