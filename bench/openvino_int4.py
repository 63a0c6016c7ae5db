"""OpenVINO's product with int4 weights: the compressed form that its own exporters write."""

import numpy as np

from bench.harness import Contender
from bench.peers import Array, Check


def product(
    name: str, x: Array, w: Array, copies: int, scale: Array, group: int, threads: int, check: Check, read_bytes: int
) -> Contender:
    """float32 in and out; w (K, N) in [-8, 7], rolled from copy to copy; one ``scale`` (K / group, N) for all."""
    import openvino as ov
    from openvino import opset13 as ops

    depth, columns = w.shape
    nibbles = (np.ascontiguousarray(w.T) & 15).astype(np.uint8)
    packed = nibbles[:, 0::2] | (nibbles[:, 1::2] << 4)
    x_in = ops.parameter(list(x.shape), np.float32, name="x")
    outputs = []
    for shift in range(copies):
        rows = np.roll(packed, shift, axis=0).reshape(-1)
        tensor = ov.Tensor(rows, [columns, depth // group, group], ov.Type.i4)
        real = ops.multiply(
            ops.convert(ops.constant(tensor, shared_memory=False), np.float16),
            ops.constant(np.ascontiguousarray(scale.T).astype(np.float16)[..., None]),
        )
        flat = ops.reshape(real, ops.constant(np.array([columns, depth])), False)
        outputs.append(ops.result(ops.matmul(x_in, ops.convert(flat, np.float32), False, True)))
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    compiled = ov.Core().compile_model(ov.Model(outputs, [x_in]), "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(x))
    results = [request.get_output_tensor(index) for index in range(len(outputs))]

    def run() -> list[Array]:
        request.infer()
        return [result.data for result in results]

    return Contender(name, run, check, copies, read_bytes)
