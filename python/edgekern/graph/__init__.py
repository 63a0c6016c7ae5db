"""What a model says: its messages, constants, shapes and attributes, and the families that its operators belong to.

The only reader of ONNX files and values and the only list of operator families: calibration watches tensors by it,
quantization places 8-bit tensors by it, and the compiler gives operators to kernels by it.
"""
