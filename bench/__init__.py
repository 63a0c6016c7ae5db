"""Benchmarks: each beside its peers, in one process, against what the machine can do."""

import os

# Read when NumPy is loaded. Without it BLAS threads keep a core busy for milliseconds after every product, and whoever
# runs next pays.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
