"""Add in the epilogue of the product before it: its 8-bit result stays in registers."""

from __future__ import annotations

from collections.abc import Sequence

from edgekern._core import StepKind
from edgekern.compiler.steps import PRODUCTS, Item, KernelStep, Tensor, readers_of


def fuse_residuals(items: Sequence[Item], outputs: Sequence[Tensor]) -> list[Item]:
    """Fuse each Add into the later of its products that nobody else reads.

    The graph has QuantizeLinear and DequantizeLinear between the two, and so has the fused step: no bit changes.
    """
    readers = readers_of(items, outputs)
    maker = {item.output: item for item in items if isinstance(item, KernelStep)}
    position = {item: at for at, item in enumerate(items)}
    gone: set[Item] = set()
    for item in items:
        if not isinstance(item, KernelStep) or item.kind != StepKind.ADD:
            continue
        found = [maker[x] for x in item.inputs if x in maker and readers[x.root] == 1 and _fusable(maker[x], item)]
        if found:
            product = max(found, key=position.__getitem__)
            _fuse(product, item)
            gone.add(product)
    return [item for item in items if item not in gone]


def _fusable(product: KernelStep, add: KernelStep) -> bool:
    same = all(x.size == product.output.size and x.order == product.output.order for x in add.inputs)
    return product.kind in PRODUCTS and not product.has_residual and product.op != "Constant" and same


def _fuse(product: KernelStep, add: KernelStep) -> None:
    """``add`` becomes the fused step: it stands where both operands are there."""
    inner = product.output
    other = add.inputs[1] if add.inputs[0] is inner else add.inputs[0]
    add.kind, add.name, add.op = product.kind, product.name, f"{product.op}+{add.op}"
    add.inputs, add.blobs = [product.inputs[0], other], product.blobs
    add.arguments = {
        **product.arguments,
        "mid_scale": inner.q.scale,
        "mid_zero_point": inner.q.zero_point,
        "mid_signed": int(inner.q.signed),
        "sum_lo": add.arguments["lo"],
        "sum_hi": add.arguments["hi"],
    }
