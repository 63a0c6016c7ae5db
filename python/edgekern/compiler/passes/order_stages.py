"""Order steps into segments of kernels with host steps between them, as few of both as can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx_ir as ir

from edgekern.compiler.steps import HostNode, Item, KernelStep, Tensor
from edgekern.graph.families import RANDOM


@dataclass(frozen=True)
class Stage:
    """Kernel steps that run without leaving C++, or one connected run of host nodes."""

    steps: tuple[KernelStep, ...] = ()
    hosts: tuple[HostNode, ...] = ()


def order_stages(items: Sequence[Item]) -> list[Stage]:
    """Put every item into the earliest stage it can be in: even stages are kernels, odd ones are the host."""
    maker: dict[Tensor, Item] = {}
    host_of: dict[ir.Value, HostNode] = {}
    for item in items:
        item.stage = _earliest(item, maker, host_of)
        if isinstance(item, KernelStep):
            maker[item.output] = item
        else:
            maker |= dict.fromkeys(item.outputs.values(), item)
            host_of |= dict.fromkeys(item.node.outputs, item)
    by_number: dict[int, list[Item]] = {}
    for item in items:
        by_number.setdefault(item.stage, []).append(item)
    stages = []
    for number, members in sorted(by_number.items()):
        if number % 2 == 0:
            stages.append(Stage(steps=tuple(item for item in members if isinstance(item, KernelStep))))
        else:
            hosts = [item for item in members if isinstance(item, HostNode)]
            stages += [Stage(hosts=tuple(group)) for group in _connected(hosts, host_of)]
    return stages or [Stage()]


def _earliest(item: Item, maker: dict[Tensor, Item], host_of: dict[ir.Value, HostNode]) -> int:
    kernel = isinstance(item, KernelStep)
    stage = 0 if kernel else 1
    sources: list[Item] = []
    if isinstance(item, KernelStep):
        sources = [maker[x.root] for x in item.inputs if x.root in maker]
    else:
        sources = [maker[x.root] for x in item.inputs.values() if x.root in maker]
        sources += [host_of[value] for value in item.reads if value in host_of]
    for source in sources:
        stage = max(stage, source.stage + (isinstance(source, KernelStep) != kernel))
    return stage


def _connected(hosts: list[HostNode], host_of: dict[ir.Value, HostNode]) -> list[list[HostNode]]:
    """Groups of nodes that hang together through values between them.

    Those that draw are one: sessions of their own would draw the same numbers.
    """
    neighbors: dict[HostNode, list[HostNode]] = {host: [] for host in hosts}
    drawing = [host for host in hosts if host.node.op_type in RANDOM]
    for one, next_one in pairwise(drawing):
        neighbors[one].append(next_one)
        neighbors[next_one].append(one)
    for host in hosts:
        for other in (host_of.get(value) for value in host.reads):
            if other in neighbors:
                neighbors[host].append(other)
                neighbors[other].append(host)
    group: dict[HostNode, HostNode] = {}  # each node's first one
    for first in hosts:
        waiting = [] if first in group else [first]
        while waiting:
            host = waiting.pop()
            if host not in group:
                group[host] = first
                waiting += neighbors[host]
    members: dict[HostNode, list[HostNode]] = {}
    for host in hosts:
        members.setdefault(group[host], []).append(host)
    return list(members.values())
