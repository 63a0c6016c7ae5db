"""Benchmarks: answers are asserted before a clock starts, peers run in the same rounds, and losing rows stay."""

import os

# Read when NumPy is loaded. Without it BLAS threads keep a core busy for milliseconds after every product, and whoever
# runs next pays.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
