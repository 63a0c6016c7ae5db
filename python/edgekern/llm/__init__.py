"""LLaMA-family models on quantized weights and a quantized ring cache.

``load`` takes GGUF, Hugging Face folders and llama2.c files; a :class:`Decoder` makes tokens of them. ``quantize``
writes them packed, by methods that mend what rounding breaks.
"""

from edgekern.llm.config import ModelConfig, RopeScaling
from edgekern.llm.decoder import Decoder, Figures
from edgekern.llm.loading import load, read_model
from edgekern.llm.memory_plan import MemoryPlan, Remedy, plan_memory
from edgekern.llm.quantize_model import Quantized, quantize
from edgekern.llm.tokenizer import TextStream, Tokenizer

__all__ = [
    "Decoder",
    "Figures",
    "MemoryPlan",
    "ModelConfig",
    "Quantized",
    "Remedy",
    "RopeScaling",
    "TextStream",
    "Tokenizer",
    "load",
    "plan_memory",
    "quantize",
    "read_model",
]
