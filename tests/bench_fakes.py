"""What stands in for measurements in tests of the bench."""

from types import SimpleNamespace

from bench import (
    harness,
    limits,
    suite,
)

STEADY = limits.Sample(1e12, 4e10)


def fine(result: object) -> None:
    assert result == 4


class FakeProbe:
    """Limits that never move, or that stand still only from the third sample on."""

    isa, threads, streams, memory_bytes = "scalar", 1, [(1, 0, "huge")], 1 << 20

    def __init__(self, *peaks):
        self.peaks = list(peaks)

    def sample(self):
        return limits.Sample(self.peaks.pop(0) if len(self.peaks) > 1 else self.peaks[0], 4e10)

    def read(self):
        return 9e10

    def cached_bytes_per_second(self, size):
        return 1e11


def options_of(**given):
    return SimpleNamespace(**{"only": None, "seconds": 0, "quick": False, "threads": [1], "json": None} | given)


def result_of(case="case", void=(), references=(), **best):
    timings = {name: harness.Timing(value, value, value, value, 7) for name, value in best.items()}
    shown = suite.Case("group", case, (), 8, references=references)
    return suite.Result(shown, timings, dict.fromkeys(best, 2), STEADY, STEADY, void, 1, 1)
