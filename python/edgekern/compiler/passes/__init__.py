"""Passes of the compiler, one verb and noun each; pipeline.py lists them in their order."""
