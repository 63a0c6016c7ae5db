"""What a model costs on this machine: latency, memory, and what the time goes to, beside onnxruntime.

Programs need NumPy alone; ONNX models, and peers, need ``edgekern[toolkit]``.
"""

from edgekern.benchmark.batches import BatchesReport, bench_batches
from edgekern.benchmark.decoders import DecoderReport, bench_decoder
from edgekern.benchmark.models import DEFAULT_SECONDS, bench_model
from edgekern.benchmark.report import ModelReport

__all__ = [
    "DEFAULT_SECONDS",
    "BatchesReport",
    "DecoderReport",
    "ModelReport",
    "bench_batches",
    "bench_decoder",
    "bench_model",
]
