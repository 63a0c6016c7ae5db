"""Nets that nobody wrote, from float to the session; ``python -m tests.random_nets`` draws as many as one likes."""

import onnx
import pytest
from hypothesis import given, settings

from net_strategy import random_nets
from random_nets import check_float_net, check_net

from graphs import Array

pytestmark = pytest.mark.filterwarnings("ignore")


@settings(max_examples=20, derandomize=True)
@given(net=random_nets())
def test_a_random_net_that_we_quantize_gives_what_its_file_says(net: tuple[onnx.ModelProto, list[Array]]):
    check_net(*net, by_onnxruntime=False)


@settings(max_examples=20, derandomize=True)
@given(net=random_nets())
def test_a_random_net_that_onnxruntime_quantizes_gives_what_its_file_says(net: tuple[onnx.ModelProto, list[Array]]):
    check_net(*net, by_onnxruntime=True)


@settings(max_examples=20, derandomize=True)
@given(net=random_nets())
def test_a_random_net_that_nobody_quantizes_gives_what_onnxruntime_gives(net: tuple[onnx.ModelProto, list[Array]]):
    check_float_net(*net)
