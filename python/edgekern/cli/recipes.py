"""Names of recipes, as options have them."""

from typing import Literal

# Those of edgekern.quantization.config, which takes a second to import.
Recipe = Literal[
    "w8a8",
    "w4a8",
    "w8a16",
    "w8a8-dynamic",
    "w4a8-g32",
    "w4a8-g64",
    "w4a8-g128",
    "w4a16-g32",
    "w4a16-g64",
    "w4a16-g128",
    "float32",
]
Rounding = Literal["filter_sum", "nearest", "gptq", "adaround"]
ModelRecipe = Literal["auto", "mixed", "performance", "accuracy", Recipe]
