"""Benchmarks: answers are asserted before a clock starts, peers run in the same rounds, and losing rows stay."""
