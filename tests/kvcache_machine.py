"""A cache under any order of calls, against unbounded float arrays with explicit masks.

``python -m tests.kvcache_machine --operations 100000`` runs until that many operations have been checked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import edgekern as ek
from edgekern.errors import KVRewindError

sys.path.insert(0, str(Path(__file__).parent))
from reference import kvcache as reference

Float32 = npt.NDArray[np.float32]
KV_HEADS, HEADS = 1, 2
# Largest difference from float64 over the values as they were given, in units of the largest |V|.
BOUNDS = {"float32": 2e-6, "float16": 4e-3, "bfloat16": 4e-2, "int8": 0.06, "k8v4": 0.2}
operations = {"done": 0}


class Unbounded:
    """All tokens ever committed of one sequence, and which positions the ring has to hold."""

    def __init__(self, dim: int) -> None:
        self.begin, self.oldest = 0, 0
        self.k = np.zeros((0, KV_HEADS, dim), np.float32)
        self.v = np.zeros((0, KV_HEADS, dim), np.float32)

    @property
    def position(self) -> int:
        return self.begin + len(self.k)

    def copy(self) -> Unbounded:
        other = Unbounded(self.k.shape[2])
        other.begin, other.oldest, other.k, other.v = self.begin, self.oldest, self.k, self.v
        return other


class CacheMachine(RuleBasedStateMachine):
    """Two sequences: the second is what forks and loads write to."""

    @initialize(
        dim=st.sampled_from([8, 64, 128]),
        window=st.one_of(st.integers(1, 64), st.sampled_from([260, 300])),  # the last take two segments
        sinks=st.integers(0, 8),
        chunk=st.integers(1, 16),
        depth=st.integers(0, 12),
        kv=st.sampled_from(sorted(BOUNDS)),
        seed=st.integers(0, 2**32 - 1),
    )
    def create(self, dim: int, window: int, sinks: int, chunk: int, depth: int, kv: str, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.dim, self.kv, self.chunk = dim, kv, chunk
        self.cache = ek.RingKVCache(
            num_layers=1,
            num_kv_heads=KV_HEADS,
            num_heads=HEADS,
            head_dim=dim,
            window=window,
            sinks=sinks,
            max_chunk=chunk,
            rewind=depth,
            kv=kv,
            num_sequences=2,
            num_threads=1,
        )
        self.ring = window + max(chunk - 1, depth)
        self.models = [Unbounded(dim), Unbounded(dim)]

    def draw(self, tokens: int, heads: int) -> Float32:
        return self.rng.standard_normal((tokens, heads, self.dim)).astype(np.float32)

    def compare(
        self, out: Float32, q: Float32, q_sink: Float32, k: Float32, v: Float32, begin: int, first: int
    ) -> None:
        """Queries at `first` and on against tokens k, v at `begin` and on."""
        position = begin + np.arange(len(k))
        for t in range(len(q)):
            seen = reference.visible(position, first + t, self.cache.sinks, self.cache.window)
            sink = position[seen] < self.cache.sinks
            for head in range(HEADS):
                wanted = reference.attention(q[t, head], q_sink[t, head], k[seen, 0], v[seen, 0], sink, self.dim**-0.5)
                bound = BOUNDS[self.kv] * max(1.0, float(np.abs(v[seen]).max()))
                assert np.abs(out[t, head] - wanted).max() <= bound

    def check(self, sequence: int) -> None:
        """What the slots hold, and the attention of the last token."""
        operations["done"] += 1
        model = self.models[sequence]
        assert self.cache.position(sequence) == model.position
        positions = self.cache.positions(sequence)
        for slot, there in enumerate(positions):
            assert there == -1 or reference.slot_of(int(there), self.cache.sinks, self.ring) == slot
        sinks = self.cache.sinks
        kept = {p for p in range(model.begin, model.position) if p < sinks or p >= model.oldest}
        assert set(positions[positions >= 0].tolist()) == kept
        seen_from = max(model.begin, sinks, model.position - self.cache.window)
        if len(model.k) and (seen_from >= model.oldest or model.position <= sinks):
            q, q_sink = self.draw(1, HEADS), self.draw(1, HEADS)
            out = self.cache.attend(0, q, q_sink, sequence=sequence)
            self.compare(out, q, q_sink, model.k, model.v, model.begin, model.position - 1)

    @rule(data=st.data(), sequence=st.integers(0, 1))
    def append(self, data: st.DataObject, sequence: int) -> None:
        tokens = data.draw(st.integers(1, 3 * self.cache.window))
        k, v = self.draw(tokens, KV_HEADS), self.draw(tokens, KV_HEADS)
        self.cache.append(k[None], v[None], sequence=sequence)
        model = self.models[sequence]
        model.k, model.v = np.concatenate([model.k, k]), np.concatenate([model.v, v])
        model.oldest = max(model.oldest, model.position - self.ring)
        self.check(sequence)

    @rule(data=st.data(), sequence=st.integers(0, 1), drop=st.booleans())
    def stage_and_commit(self, data: st.DataObject, sequence: int, drop: bool) -> None:
        tokens = data.draw(st.integers(1, self.chunk))
        accepted = 0 if drop else data.draw(st.integers(0, tokens))
        k, v, q, q_sink = (self.draw(tokens, n) for n in (KV_HEADS, KV_HEADS, HEADS, HEADS))
        model = self.models[sequence]
        with self.cache.stage(tokens, sequence=sequence) as staged:
            staged.write(0, k, v)
            out = staged.attend(0, q, q_sink)
            if not drop:
                staged.commit(accepted)
        all_k, all_v = np.concatenate([model.k, k]), np.concatenate([model.v, v])
        self.compare(out, q, q_sink, all_k, all_v, model.begin, model.position)
        model.oldest = max(model.oldest, model.position + tokens - self.ring)
        model.k, model.v = all_k[: len(model.k) + accepted], all_v[: len(model.v) + accepted]
        self.check(sequence)

    @rule(data=st.data(), sequence=st.integers(0, 1))
    def rewind(self, data: st.DataObject, sequence: int) -> None:
        model = self.models[sequence]
        tokens = data.draw(st.integers(0, len(model.k) + 1))
        left = model.position - tokens
        needed = max(model.begin, self.cache.sinks, left - self.cache.window + 1)
        possible = tokens <= len(model.k) and (needed >= model.oldest or needed >= left)
        try:
            self.cache.rewind(tokens, sequence=sequence)
            assert possible
            model.k, model.v = model.k[: len(model.k) - tokens], model.v[: len(model.v) - tokens]
            model.oldest = min(model.oldest, left)
        except KVRewindError:
            assert not possible
        self.check(sequence)

    @rule(source=st.integers(0, 1))
    def fork(self, source: int) -> None:
        self.cache.fork(source, 1 - source)
        self.models[1 - source] = self.models[source].copy()
        self.same_bits()

    @rule(source=st.integers(0, 1))
    def save_and_load(self, source: int) -> None:
        self.cache.load(self.cache.save(sequence=source), sequence=1 - source)
        self.models[1 - source] = self.models[source].copy()
        self.same_bits()

    def same_bits(self) -> None:
        assert np.array_equal(self.cache.positions(0), self.cache.positions(1))
        k, q = self.draw(1, KV_HEADS), self.draw(1, HEADS)
        outs = []
        for sequence in (0, 1):
            with self.cache.stage(1, sequence=sequence) as staged:
                staged.write(0, k, k)
                outs.append(staged.attend(0, q))
            model = self.models[sequence]
            model.oldest = max(model.oldest, model.position + 1 - self.ring)
        assert np.array_equal(outs[0].view(np.int32), outs[1].view(np.int32))
        self.check(0)

    @rule(sequence=st.integers(0, 1), position=st.sampled_from([0, 0, 5, 2**31 - 3, 2**40]))
    def reset(self, sequence: int, position: int) -> None:
        self.cache.reset(position=position, sequence=sequence)
        model = self.models[sequence] = Unbounded(self.dim)
        model.begin = model.oldest = position
        self.check(sequence)

    @precondition(lambda self: self.kv == "float32" and len(self.models[0].k) in range(1, 400))
    @rule(step=st.integers(1, 16))
    def tell_the_same_in_other_chunks(self, step: int) -> None:
        """Sequence 1 hears sequence 0's tokens anew, in chunks of another size: the same bits."""
        model = self.models[0]
        seen_from = max(model.begin, self.cache.sinks, model.position - self.cache.window)
        if seen_from < model.oldest:
            return
        self.cache.reset(position=model.begin, sequence=1)
        for at in range(0, len(model.k), step):
            self.cache.append(model.k[None, at : at + step], model.v[None, at : at + step], sequence=1)
        self.models[1] = model.copy()
        self.models[1].oldest = max(model.begin, model.position - self.ring)
        q = self.draw(1, HEADS)
        assert np.array_equal(self.cache.attend(0, q), self.cache.attend(0, q, sequence=1))
        self.check(1)


def run_machine(operations: int, seed: int, *, progress: bool = False) -> int:
    """Run until so many operations have been checked; how many it were."""
    start = done = globals()["operations"]["done"]
    steps, examples = 50, max(1, min(operations // 50, 100))
    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    while done - start < operations:
        machine = type("CacheMachine", (CacheMachine,), {})
        machine._hypothesis_internal_use_seed = seed + done  # type: ignore[attr-defined]
        run_state_machine_as_test(machine, settings=options)
        done = globals()["operations"]["done"]
        if progress:
            print(f"{done - start} of {operations} operations", flush=True)
    return done - start


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    checked = run_machine(arguments.operations, arguments.seed, progress=True)
    print(f"{checked} operations, no difference")
