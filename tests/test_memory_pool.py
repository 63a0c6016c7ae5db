"""The pool of blocks: best fit, budgets, holes that join, and arrays that give their block back."""

import re
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, MemoryBudgetError

TOTAL = 64 * 32
BUDGETS = {"input": 64 * 8, "output": 64 * 6, "intermediate": 64 * 16}
KINDS = list(BUDGETS)


def small_pool(**budgets):
    sizes = {f"{kind}_bytes": size for kind, size in (BUDGETS | budgets).items()}
    return ek.MemoryPool(TOTAL, **sizes)


class Reference:
    """Best fit over a row of 64-byte cells."""

    def __init__(self):
        self.cells = [0] * (TOTAL // 64)
        self.held = {}
        self.peak = 0

    def holes(self):
        text = "".join("x" if cell else "." for cell in self.cells)
        return [(hole.start(), hole.end() - hole.start()) for hole in re.finditer(r"\.+", text)]

    def used(self, kind):
        return 64 * sum(size for _, size, of, _ in self.held.values() if of == kind)

    def allocate(self, key, kind, nbytes):
        """The offset in bytes, or the word that the refusal has."""
        size = -(-nbytes // 64)
        if self.used(kind) + 64 * size > BUDGETS[kind]:
            return "budget"
        fits = [(length, start) for start, length in self.holes() if length >= size]
        if not fits:
            return "hole"
        start = min(fits)[1]
        self.cells[start : start + size] = [1] * size
        self.held[key] = start, size, kind, nbytes
        self.peak = max(self.peak, 64 * sum(self.cells))
        return 64 * start

    def release(self, key):
        start, size, _, _ = self.held.pop(key)
        self.cells[start : start + size] = [0] * size


moves = st.one_of(
    st.tuples(st.just("allocate"), st.sampled_from(KINDS), st.integers(1, 64 * 7)),
    st.tuples(st.just("release"), st.integers(0, 31), st.none()),
)


@settings(max_examples=200)
@given(st.lists(moves, max_size=60))
def test_blocks_lie_where_best_fit_puts_them(sequence):
    pool, reference, arrays = small_pool(), Reference(), {}
    base = pool.allocate(1, np.uint8, kind="input")
    start = base.ctypes.data
    del base
    reference.peak = 64
    for number, (move, what, nbytes) in enumerate(sequence):
        if move == "release":
            if arrays:
                key = sorted(arrays)[what % len(arrays)]
                assert (arrays.pop(key) == key % 251).all()  # nobody else wrote there
                reference.release(key)
        else:
            expected = reference.allocate(number, what, nbytes)
            if isinstance(expected, str):
                with pytest.raises(MemoryBudgetError, match=expected):
                    pool.allocate(nbytes, np.uint8, kind=what)
            else:
                arrays[number] = pool.allocate(nbytes, np.uint8, kind=what)
                assert arrays[number].ctypes.data - start == expected
                arrays[number][:] = number % 251
        found, holes = pool.statistics(), reference.holes()
        used = 64 * sum(reference.cells)
        asked = sum(nbytes for *_, nbytes in reference.held.values())
        largest = 64 * max((length for _, length in holes), default=0)
        assert found == ek.PoolStatistics(
            total_bytes=TOTAL,
            used_bytes=used,
            peak_bytes=reference.peak,
            padding_bytes=used - asked,
            largest_free_bytes=largest,
            blocks=len(arrays),
            holes=len(holes),
            used_by_kind={kind: reference.used(kind) for kind in KINDS},
            peak_by_kind=found.peak_by_kind,
        )
        assert all(found.peak_by_kind[kind] >= found.used_by_kind[kind] for kind in KINDS)
        assert found.fragmentation == (1 - largest / (TOTAL - used) if used < TOTAL else 0)


def test_the_last_array_on_a_block_gives_it_back_and_keeps_the_pool_alive():
    pool = small_pool()
    x = pool.allocate((4, 8), np.float32, kind="output")
    assert x.flags.c_contiguous
    assert x.flags.writeable
    assert x.ctypes.data % 64 == 0
    row = x[2]
    row[:] = 7
    del x
    assert pool.statistics().used_by_kind == {"input": 0, "output": 128, "intermediate": 0}
    del pool
    assert (row == 7).all()


def test_a_freed_block_is_had_again():
    pool = small_pool()
    first = pool.allocate(64, np.uint8)
    place = first.ctypes.data
    del first
    assert pool.statistics().blocks == 0
    assert pool.allocate(3, np.int8).ctypes.data == place


def test_slack_beside_the_budgets_is_what_holes_need():
    """A request within its budget fails where free bytes are scattered, and a larger pool would have held it."""
    whole = {"input_bytes": 0, "output_bytes": 0, "intermediate_bytes": 64 * 4}
    for total, fits in ((64 * 4, False), (64 * 6, True)):
        pool = ek.MemoryPool(total, **whole)
        blocks = [pool.allocate(64, np.uint8) for _ in range(4)]
        del blocks[2], blocks[0]
        assert pool.statistics().fragmentation > 0
        if fits:
            assert pool.allocate(128, np.uint8).nbytes == 128
        else:
            with pytest.raises(MemoryBudgetError, match="128 are free in 2 holes, the largest of 64"):
                pool.allocate(128, np.uint8)


def test_threads_share_a_pool():
    pool = ek.MemoryPool("1M", intermediate_bytes="1M")
    wrong = []

    def work(mark):
        for size in range(1, 400):
            x = pool.allocate(size, np.uint8)
            x[:] = mark
            if not (x == mark).all():
                wrong.append(mark)

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool.statistics().used_bytes == 0


def test_nothing_is_an_array_without_a_block():
    pool = small_pool(input=0)
    assert pool.allocate((0, 3), kind="input").shape == (0, 3)
    assert pool.statistics().blocks == 0


@pytest.mark.parametrize(
    ("total", "budgets", "error", "words"),
    [
        (0, {}, ArgumentValueError, "total_bytes must be at least one byte"),
        (-64, {}, ArgumentValueError, "total_bytes"),
        (True, {}, ArgumentValueError, "total_bytes"),
        (64.0, {}, ArgumentTypeError, "total_bytes"),
        (65, {}, ArgumentValueError, "a positive multiple of 64 bytes, got 65"),
        (2**64, {}, ArgumentValueError, "below 2\\*\\*63"),
        ("12 parsecs", {}, ArgumentValueError, "total_bytes"),
        (128, {"input_bytes": 65, "output_bytes": 64}, ArgumentValueError, "more than the pool's 128; make the pool"),
        (128, {"input_bytes": -1}, ArgumentValueError, "input_bytes"),
        (128, {"intermediate_bytes": None}, ArgumentTypeError, "intermediate_bytes"),
    ],
)
def test_pools_that_cannot_be_are_refused(total, budgets, error, words):
    with pytest.raises(error, match=words):
        ek.MemoryPool(total, **budgets)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (((-1,), np.float32), ArgumentValueError, "shape must have no negative size"),
        (((1.5,), np.float32), ArgumentTypeError, "shape"),
        (((2**30, 2**30, 2**30), np.float32), ArgumentValueError, "no machine has as many"),
        (((4,), object), ArgumentTypeError, "no Python objects"),
        (((4,), "no type"), ArgumentTypeError, "dtype"),
        (((2**20,), np.float32), MemoryBudgetError, "more than the whole pool"),
    ],
)
def test_blocks_that_cannot_be_are_refused(arguments, error, words):
    pool = small_pool()
    with pytest.raises(error, match=words):
        pool.allocate(*arguments)
    with pytest.raises(ArgumentValueError, match=r"kind must be one of 'input', .*, got 'weights'"):
        pool.allocate(4, kind="weights")
    assert pool.statistics().blocks == 0
