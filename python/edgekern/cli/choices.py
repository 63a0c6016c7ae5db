"""What options of quantization may be: the types of edgekern.quantization.config, which takes a second to import."""

from typing import Literal

GroupRecipe = Literal["w4a8-g32", "w4a8-g64", "w4a8-g128", "w4a16-g32", "w4a16-g64", "w4a16-g128"]
Recipe = Literal["w8a8", "w4a8", "w8a16", "w8a8-dynamic", GroupRecipe, "float32"]
ModelRecipe = Literal["auto", "mixed", "performance", "accuracy", Recipe]
Rounding = Literal["filter_sum", "nearest", "gptq", "adaround"]
GroupScales = Literal["max", "mse", "hqq"]
Granularity = Literal["channel", "tensor"]
