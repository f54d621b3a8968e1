"""What mixtures of experts share: the modules of sparse layers, and how stacked or separate experts run.

From transformers 5 the experts of a layer are two stacked parameters run by one
grouped product (``integrations/moe.py``); before, they were a list of MLPs run
one after the other (`Architecture.legacy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families._routers import route
from hubvram.architecture.modules import Linear, Module, Weight
from hubvram.errors import UnsupportedError

EVEN = "Tokens spread evenly over the experts (each runs tokens x experts per token / experts rows)."
"""What the loop over experts assumes; the grouped product needs no such assumption."""


class Reader:
    """Config values with the model type's own defaults."""

    def __init__(self, config: Config, defaults: Mapping[str, int]) -> None:
        """``defaults`` are those of transformers' config class."""
        self.config = config
        self.defaults = defaults

    def get(self, *names: str) -> int:
        """A size of at least 1, by the first name found in the config, else the class default of any."""
        default = next((self.defaults[n] for n in names if n in self.defaults), None)
        return self.config.whole(*names, default=default)


def experts_of(path: str, hidden: int, width: int, count: int) -> dict[str, Module]:
    """The stacked experts of transformers 5: (experts, out, in)."""
    return {
        "experts_up": Weight(f"{path}.gate_up_proj", (count, 2 * width, hidden), adaptable=True),
        "experts_down": Weight(f"{path}.down_proj", (count, hidden, width), adaptable=True),
    }


def experts_apart(
    path: str,
    hidden: int,
    width: int,
    count: int,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> dict[str, Module]:
    """The experts of transformers < 5: one MLP each, its matrices by ``names``."""
    gate, up, down = names
    out: dict[str, Module] = {}
    for i in range(count):
        out[f"e{i}_gate"] = Linear(f"{path}.{i}.{gate}", hidden, width)
        out[f"e{i}_up"] = Linear(f"{path}.{i}.{up}", hidden, width)
        out[f"e{i}_down"] = Linear(f"{path}.{i}.{down}", width, hidden)
    return out


def routed(router: str, experts: str, hidden: int, width: int, count: int, *, legacy: bool) -> dict[str, Module]:
    """A router at one path and the experts at another: parameters in transformers 5, linear layers before."""
    if legacy:
        gate: Module = Linear(router, hidden, count, role="router")
        return {"gate": gate, **experts_apart(experts, hidden, width, count)}
    gate = Weight(f"{router}.weight", (count, hidden), adaptable=True)
    return {"gate": gate, **experts_of(experts, hidden, width, count)}


def sparse_layers(config: Config, read: Reader, layers: int, experts: int) -> list[bool]:
    """Which layers have experts: ``first_k_dense_replace``, or ``mlp_only_layers`` and ``decoder_sparse_step``.

    Raises:
        UnsupportedError: a model without experts under a sparse model type.
    """
    first = config.whole("first_k_dense_replace", default=read.defaults.get("first_k_dense_replace", 0))
    step = config.whole("decoder_sparse_step", default=1)
    dense = config.raw("mlp_only_layers") or []
    if experts < 1:
        raise UnsupportedError(f"{config.where}: {experts} experts.")
    return [i >= first and i not in dense and (i + 1) % step == 0 for i in range(layers)]


def shared_mlp(g: Any, m: Any, h: Any, act: str) -> Any:
    """The shared expert."""
    return m.shared_down_proj(g, g.glu(act, m.shared_gate_proj(g, h), m.shared_up_proj(g, h)))


def sparse_block(g: Any, m: Any, h: Any, act: str, facts: Mapping[str, Any]) -> Any:
    """The mixture of experts of one layer: (batch, tokens, hidden) in and out."""
    shape = h.shape
    flat = h.view(-1, shape[-1])
    shared = shared_mlp(g, m, flat, act) if facts["shared"] == "gated" else None
    logits, weights, index = route(g, m, flat, facts)
    out = run_experts(g, m, flat, index, weights, act, facts)
    if shared is not None:
        opened = g.sigmoid(m.shared_gate(g, flat))
        shared = g.mul(opened, shared)
        out = g.add(out, shared)
    out = out.view(*shape)
    if facts["shared"] == "plain":
        out = g.add(out, shared_mlp(g, m, h, act))
    if facts["shared_mlp"]:
        out = g.add(out, m.shared_output(g, g.gated(act, m.shared_input(g, h))))
    del logits
    return out


def run_experts(g: Any, m: Any, flat: Any, index: Any, weights: Any, act: str, facts: Mapping[str, Any]) -> Any:
    """Stacked experts in one grouped product, or the old loop."""
    if facts["legacy"]:
        experts = [lambda x, i=i: expert_mlp(g, m, i, x, act) for i in range(facts["experts"])]
        return g.experts_looped(flat, index, weights, experts)
    return g.experts_grouped(
        flat, index, weights, m.experts_up, m.experts_down, lambda x: g.gated(act, x), num_experts=facts["experts"]
    )


def expert_mlp(g: Any, m: Any, i: int, x: Any, act: str) -> Any:
    """One expert of transformers < 5."""
    inner = g.glu(act, getattr(m, f"e{i}_gate")(g, x), getattr(m, f"e{i}_up")(g, x))
    return getattr(m, f"e{i}_down")(g, inner)
