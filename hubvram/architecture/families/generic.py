"""A model nobody has described: what its header alone says.

Layers are the longest numbered series of equal names (``...layers.3.mlp...``);
every matrix in a layer is a linear layer, every vector a norm or a bias. The
trace assumes a pre-norm residual block, attention by a flash-like kernel and a
cross entropy over ``vocab_size``. The estimate is partial and says so.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.errors import UnsupportedError

_NUMBERED = re.compile(r"^(.*?)\.(\d+)\.(.+)$")
ASSUMPTIONS = (
    "the model type is unknown: layers and matrices are read off the tensor names",
    "a pre-norm residual block: each matrix keeps its input, outputs pass an activation, attention is flash-like",
    "causal language modelling with a cross entropy over the vocabulary",
)
NOT_COUNTED = ("whatever the model's own code keeps beyond one input and one output per matrix",)


def build(config: Config, header: Header) -> Architecture:
    """From tensor names and shapes.

    Raises:
        UnsupportedError: no repeated block, or no embedding, can be made out.
    """
    text = config.sub("text_config", "llm_config", "language_config") or config
    prefix, layers = _layers(header)
    first = layers[min(layers)]
    hidden = text.optional("hidden_size", "d_model", "n_embd", "dim") or _commonest(first)
    vocab = text.optional("vocab_size") or 0
    kinds: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
    order = []
    for index in sorted(layers):
        kind = tuple(sorted(layers[index].items()))
        order.append(kinds.setdefault(kind, len(kinds)))
    blocks = tuple(Block(_modules(dict(kind), hidden), {}) for kind in kinds)
    inside = {f"{prefix}.{i}.{name}" for i, names in layers.items() for name in names}
    outside = {name: shape for name, shape in header.shapes.items() if name not in inside}
    modules, tied = _outside(outside, vocab, hidden)
    heads = text.optional("num_attention_heads", "n_head", "num_heads") or max(1, hidden // 128)
    kv_heads = text.optional("num_key_value_heads", "num_kv_heads", "multi_query_group_num") or heads
    return Architecture(
        family="generic",
        model_type=config.text("model_type", default="unknown"),
        class_name=None,
        task="causal",
        modules=modules,
        stacks={"layers": Stack(prefix, blocks, tuple(order))},
        forward=forward,
        hidden_size=hidden,
        vocab_size=modules["embed"].parameters[0][1][0],
        num_layers=len(order),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=text.optional("head_dim") or hidden // heads,
        max_seq_len=text.optional("max_position_embeddings", "n_positions", "seq_length", "max_sequence_length"),
        tied=tied,
        assumptions=ASSUMPTIONS,
        not_counted=NOT_COUNTED,
    )


def _layers(header: Header) -> tuple[str, dict[int, dict[str, tuple[int, ...]]]]:
    """The prefix with the most parameters in numbered entries, and its entries."""
    found: defaultdict[str, dict[int, dict[str, tuple[int, ...]]]] = defaultdict(dict)
    weight: Counter[str] = Counter()
    for name, shape in header.shapes.items():
        match = _NUMBERED.match(name)
        if match:
            prefix, index, rest = match.group(1), int(match.group(2)), match.group(3)
            found[prefix].setdefault(index, {})[rest] = shape
            size = 1
            for side in shape:
                size *= side
            weight[prefix] += size
    if not weight:
        raise UnsupportedError("the model type is unknown and no repeated layers can be made out from tensor names")
    best = weight.most_common(1)[0][0]
    return best, found[best]


def _commonest(layer: dict[str, tuple[int, ...]]) -> int:
    sides = Counter(side for shape in layer.values() if len(shape) == 2 for side in shape)
    if not sides:
        raise UnsupportedError("the model type is unknown and its layers hold no matrices")
    return sides.most_common(1)[0][0]


def _modules(names: dict[str, tuple[int, ...]], hidden: int) -> dict[str, Module]:
    """One layer's modules, by names that are attributes."""
    made: dict[str, Module] = {}
    for name, shape in names.items():
        path = name.removesuffix(".weight")
        key = re.sub(r"\W", "_", path)
        if len(shape) == 2 and name.endswith(".weight"):
            made[key] = Linear(path, shape[1], shape[0], f"{path}.bias" in names)
        elif name.endswith(".bias") and f"{name[:-5]}.weight" in names:
            continue
        elif len(shape) == 1 and name.endswith(".weight"):
            made[key] = Norm(path, shape[0], f"{path}.bias" in names)
        else:
            made[key] = Weight(name, shape, buffer=_is_buffer(name, shape))
    return made


def _is_buffer(name: str, shape: tuple[int, ...]) -> bool:
    """Tensors that real checkpoints hold though nobody trains them: attention masks, rotary frequencies."""
    if len(shape) == 4 and shape[0] == shape[1] == 1:
        return True
    return name.endswith(("inv_freq", "masked_bias", "position_ids", "rotary_emb.cos_cached", "rotary_emb.sin_cached"))


def _outside(names: dict[str, tuple[int, ...]], vocab: int, hidden: int) -> tuple[dict[str, Module], dict[str, str]]:
    tables = [n for n, s in names.items() if len(s) == 2 and s[1] == hidden and (s[0] == vocab or not vocab)]
    if not tables:
        tables = sorted((n for n, s in names.items() if len(s) == 2), key=lambda n: -max(names[n]))[:1]
    if not tables:
        raise UnsupportedError("the model type is unknown and no embedding can be made out from tensor names")
    embed = next((n for n in tables if "emb" in n or "wte" in n), tables[0])
    head = next((n for n in tables if n != embed and ("head" in n or "output" in n)), None)
    rows, width = names[embed]
    modules: dict[str, Module] = {"embed": Embedding(embed.removesuffix(".weight"), rows, width)}
    tied: dict[str, str] = {}
    if head is None:
        modules["lm_head"] = Linear("lm_head", width, rows, role="head")
        tied["lm_head"] = "embed"
    else:
        modules["lm_head"] = Linear(head.removesuffix(".weight"), width, names[head][0], role="head")
    for name, shape in names.items():
        if name not in (embed, head):
            modules[re.sub(r"\W", "_", name)] = Weight(name, shape, buffer=_is_buffer(name, shape))
    return modules, tied


def forward(g: Any, net: Any, batch: Any) -> Any:
    """A pre-norm block over whatever matrices there are."""
    arch = net.arch
    hidden = arch.hidden_size
    x = net.embed_tokens(g, batch)
    b, s = x.shape[0], x.shape[1]
    plans = {id(block): _roles(block) for block in arch.stacks["layers"].blocks}
    by_facts = {id(block.facts): plans[id(block)] for block in arch.stacks["layers"].blocks}

    def layer(m: Any, x: Any) -> Any:
        norms, linears, weights = by_facts[id(m.facts)]
        h = g.rms_norm(x, getattr(m, norms[0]).weight) if norms else g.rms_norm(x, None)
        wide: dict[int, Any] = {}
        attended = False
        for name in linears:
            linear = getattr(m, name)
            spec = linear.spec
            if spec.in_features == hidden:
                source = h
            else:
                source = wide.pop(spec.in_features, None)
                if source is None:
                    source = g.ones((b, s, spec.in_features), x.dt, "unknown input")
                else:
                    source = g.silu(source)
            out = linear(g, source)
            if spec.out_features == hidden and spec.in_features != hidden:
                x = g.add(x, out)
                h = g.rms_norm(x, getattr(m, norms[-1]).weight if norms else None)
            elif not attended and spec.out_features == hidden:
                q = out.view(b, arch.num_attention_heads, s, hidden // arch.num_attention_heads)
                x = g.add(x, g.flash(q, q, q).view(b, s, hidden))
                attended = True
            elif spec.out_features in wide:
                wide[spec.out_features] = g.mul(wide[spec.out_features], out)
            else:
                wide[spec.out_features] = out
        rest = [*wide.values(), *(getattr(m, name) for name in weights)]
        return g.mix(x, rest) if rest else x

    x = net.run(g, "layers", layer, x)
    return net.causal_loss(g, g.rms_norm(x, None), batch)


def _roles(block: Block) -> tuple[list[str], list[str], list[str]]:
    norms = [name for name, m in block.modules.items() if isinstance(m, Norm)]
    linears = [name for name, m in block.modules.items() if isinstance(m, Linear)]
    return norms, linears, [name for name, m in block.modules.items() if isinstance(m, Weight) and not m.buffer]


FAMILY = Family(
    name="generic",
    model_types=(),
    build=build,
    source="the safetensors header of the repo itself",
)
