"""What the compiler does with each ONNX operator on floats, integers and bools: a file a family, and table.py."""
