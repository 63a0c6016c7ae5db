"""The smallest arena, by trying everything."""

from collections.abc import Sequence


def least_peak(lower: Sequence[int], upper: Sequence[int], size: Sequence[int]) -> int:
    """Every order, each buffer on top of those placed before it that live with it: some order gives the best plan.

    Orders that already are no better than the best so far are left, and of those with the same tops one is tried.
    """
    least = sum(size)

    seen: set[frozenset[tuple[int, int]]] = set()

    def place(tops: dict[int, int], peak: int) -> None:
        nonlocal least
        state = frozenset(tops.items())
        if (peak >= least and tops) or state in seen:
            return
        seen.add(state)
        if len(tops) == len(size):
            least = peak
            return
        for i in range(len(size)):
            if i not in tops:
                below = (top for j, top in tops.items() if lower[i] < upper[j] and lower[j] < upper[i])
                top = max(below, default=0) + size[i]
                place({**tops, i: top}, max(peak, top))

    place({}, 0)
    return least
