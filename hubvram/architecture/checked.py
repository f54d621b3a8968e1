"""Building from a config that strangers wrote: what no family can use becomes an `UnsupportedError`.

Families read sizes through `Config`, which checks each. What is left here is
what only the whole shows: values of a wrong type in places that a family reads
raw, sizes that do not go together, and models that are too large to trace.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hubvram.architecture.config import MAX_LAYERS, Config
from hubvram.architecture.families import Family
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, numel
from hubvram.errors import UnsupportedError
from hubvram.snapshot.text import shown

MAX_MODULES = 20_000
"""Modules over all layers. No family's own description comes near: experts are one module a layer there."""
MAX_LISTED = 4_000
"""The same for what is read off the header alone, where each expert's matrix is traced by itself."""
MAX_DISTINCT = 600
"""Of those, modules that differ: layers that are alike cost little."""
MAX_PARAMETERS = 10**16
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What Python raises where a value is not of the kind that the code counts on."""

logger = logging.getLogger("hubvram.checked")


@contextmanager
def only_unsupported(what: str) -> Iterator[None]:
    """Turn Python's own complaints about a value into an `UnsupportedError` that keeps the original as its cause.

    The original also goes to the log (`-v`): it may be a fault of hubvram and
    not of the config.
    """
    try:
        yield
    except FAULTS as error:
        logger.debug("%s", what, exc_info=True)
        raise UnsupportedError(f"{what} ({type(error).__name__}: {shown(error)})") from error


def build(family: Family, config: Config, header: Header) -> Architecture:
    """The family's architecture, its sizes checked.

    Raises:
        UnsupportedError: the config lacks what the family needs, or holds
            values that describe no model.
    """
    with only_unsupported(f"{config.where} does not describe a model of the family {family.name}"):
        arch = family.build(config, header)
        check(arch, config.where)
    return arch


def check(arch: Architecture, where: str = "config.json") -> None:
    """Refuse an architecture whose parts are impossible or too many to trace.

    Raises:
        UnsupportedError: naming the part.
    """
    stacks = arch.stacks.values()
    layers = sum(len(stack.order) for stack in stacks)
    if layers > 2 * MAX_LAYERS:
        raise UnsupportedError(f"{where} describes {layers:,} layers, more than any model has")
    traced = len(arch.modules) + sum(len(stack.blocks[kind].modules) for stack in stacks for kind in stack.order)
    most = MAX_LISTED if arch.family == "generic" else MAX_MODULES
    if traced > most:
        raise UnsupportedError(f"it has {traced:,} modules, more than the {most:,} that are traced")
    kinds = len(arch.modules) + sum(len(block.modules) for stack in stacks for block in stack.blocks)
    if arch.family == "generic" and kinds > MAX_DISTINCT:
        raise UnsupportedError(f"it has {kinds:,} different modules, more than the {MAX_DISTINCT:,} that are traced")
    parts = [*arch.modules.values(), *(m for s in stacks for b in s.blocks for m in b.modules.values())]
    for module in parts:
        for _, shape in module.parameters:
            if any(type(side) is not int or side < 0 for side in shape):
                raise UnsupportedError(f"{where} gives {shown(module.path)} the shape {shown(list(shape))}")
        if numel(module) > MAX_PARAMETERS:
            raise UnsupportedError(f"{where} gives {shown(module.path)} {numel(module):,} parameters")
    for name in ("hidden_size", "vocab_size", "num_attention_heads", "num_key_value_heads", "head_dim"):
        value = getattr(arch, name)
        if type(value) is not int or value < 0:
            raise UnsupportedError(f"{where} gives the model the {name} {shown(value)}")
    total = arch.total_parameters()
    if total > MAX_PARAMETERS:
        raise UnsupportedError(f"{where} describes {total:,} parameters, more than any model has")
