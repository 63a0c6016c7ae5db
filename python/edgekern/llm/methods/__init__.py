"""Methods that make the integers of a language model's weights better than the nearest ones.

``rotation`` turns what flows through the layers, and leaves what the model computes as it is; ``rounding`` makes codes
of a matrix and of the second moments of its inputs; ``layers`` sends calibration text through the layers, one after
the other, on the weights that are rounded already. The cores of GPTQ, AWQ and HQQ are those of
``edgekern.quantization``, which needs ``edgekern[toolkit]``.
"""
