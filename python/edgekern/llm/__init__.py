"""LLaMA-family models on quantized weights and a quantized ring cache.

``load`` takes GGUF, Hugging Face folders and llama2.c files; a :class:`Decoder` makes tokens of them. ``quantize``
writes them packed, by methods that mend what rounding breaks.
"""

from edgekern.llm.config import ModelConfig, RopeScaling
from edgekern.llm.decoder import Decoder, Figures
from edgekern.llm.loading import load, read_model
from edgekern.llm.quantize_model import Quantized, quantize
from edgekern.llm.tokenizer import TextStream, Tokenizer

__all__ = [
    "Decoder",
    "Figures",
    "ModelConfig",
    "Quantized",
    "RopeScaling",
    "TextStream",
    "Tokenizer",
    "load",
    "quantize",
    "read_model",
]
