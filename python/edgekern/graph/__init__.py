"""What a graph says: constants, shapes and attributes of its values, and the families that its operators belong to.

The only reader of ONNX values and the only list of element-wise operators: quantization places 8-bit tensors by it, and
the compiler gives them to kernels by it.
"""
