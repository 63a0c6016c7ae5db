"""One .ekm, the same output bytes: on every ISA of this machine and for any number of threads, on trained models."""

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core

from real_models import digits, quantized_by_edgekern, real


def outputs(program, feeds):
    for isa in _core.available_isas():
        for threads in (1, 2):
            session = ek.InferenceSession(program, isa=isa, num_threads=threads)
            yield [array.tobytes() for array in session.run(None, feeds)]


def assert_same_bits(source, path):
    ek.compile(quantized_by_edgekern(source, signed=False), allow_host=False).save(path)
    program = ek.Program.load(path)
    first, *others = outputs(program, source.feeds[-1])
    assert np.frombuffer(first[0], np.float32).any()
    assert all(other == first for other in others)


def test_digits(tmp_path):
    source = digits()
    one = [{"image": feeds["image"][:1]} for feeds in source.feeds]
    assert_same_bits(type(source)(source.model, one), tmp_path / "digits.ekm")


@pytest.mark.filterwarnings("ignore:.*got a wider weight scale:edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("name", ["mobilenetv2", "squeezenet", "resnet20", "kws"])
def test_real_models(name, test_data, tmp_path):
    assert_same_bits(real(name, test_data), tmp_path / "model.ekm")
