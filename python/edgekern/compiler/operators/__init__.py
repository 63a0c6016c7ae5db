"""What the compiler does with each ONNX operator: a file a family, and table.py, which lists them."""
