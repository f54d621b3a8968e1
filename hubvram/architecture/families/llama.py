"""Llama and every decoder that is Llama with differences (`variants.VARIANTS`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.families import Family
from hubvram.architecture.families._decoder import kinds_of, tied_head
from hubvram.architecture.families._rotary import rotation
from hubvram.architecture.families._variant import Bias, Variant
from hubvram.architecture.families._windows import rotated, windows_of
from hubvram.architecture.families.variants import VARIANTS
from hubvram.architecture.header import Header
from hubvram.architecture.modules import Architecture, Block, Embedding, Linear, Module, Norm, Stack, Weight
from hubvram.errors import UnsupportedError
from hubvram.timeline.dtypes import F32

NORM_SLOTS = ("input_norm", "attn_out_norm", "post_norm", "mlp_out_norm")


def build(config: Config, header: Header) -> Architecture:
    """From config.json over the model type's defaults; biases from the header where it has the layer.

    Raises:
        UnsupportedError: a size is missing.
    """
    model_type = config.text("model_type", default="llama")
    variant = VARIANTS.get(model_type)
    if variant is None:
        raise UnsupportedError(f"{config.where}: model_type {model_type!r} is not described as a variant of Llama.")
    return build_variant(config, header, variant, model_type, variant.prefix, variant.head)


def build_variant(
    config: Config, header: Header, variant: Variant, model_type: str, prefix: str = "model", head: str = "lm_head"
) -> Architecture:
    """The decoder of a variant; ``prefix`` and ``head`` are where a larger model has it."""
    config = Config({**variant.defaults, **config.data}, config.where)
    hidden = config.positive("hidden_size")
    inner = config.positive("intermediate_size")
    layers = config.positive("num_hidden_layers", "num_layers")
    heads = config.positive("num_attention_heads")
    kv_heads = config.positive("num_key_value_heads", default=heads)
    head_dim = config.optional("head_dim") or hidden // heads
    vocab = config.positive("vocab_size")
    block = _block(config, header, variant, prefix, (hidden, inner, heads, kv_heads, head_dim))
    windows = windows_of(config, variant, layers)
    turned = rotated(config, variant, windows)
    kinds, order = kinds_of(zip(windows, turned, strict=True))
    sliding = config.optional("sliding_window") if variant.window == "types" else None
    masks = [None, sliding] if sliding is not None else list(dict.fromkeys(windows))
    blocks = tuple(Block(block, {"window": w, "rotary": t}) for w, t in kinds)
    named = config.rope_parameter("partial_rotary_factor", variant.partial)
    part = config.number("partial_rotary_factor", default=named)
    norm = variant.final_norm.replace("model.", f"{prefix}.", 1)
    return Architecture(
        family=model_type,
        model_type=model_type,
        class_name=variant.class_name,
        task="causal",
        modules={
            "embed": Embedding(f"{prefix}.{variant.embed}", vocab, hidden),
            "norm": _norm(norm, hidden, variant),
            "lm_head": Linear(head, hidden, vocab, header.has_bias(head, variant.head_bias), role="head"),
        },
        stacks={"layers": Stack(f"{prefix}.{variant.stack}", blocks, order)},
        forward=forward,
        hidden_size=hidden,
        vocab_size=vocab,
        num_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        max_seq_len=config.optional("max_position_embeddings"),
        tied=tied_head(config),
        facts=_facts(config, variant, block, masks, int(head_dim * part)),
    )


def _facts(config: Config, variant: Variant, block: dict[str, Module], masks: list[int | None], rotary: int) -> Any:
    def rate(key: str) -> float:
        return config.number(key, default=0.0) if key else 0.0

    parallel = variant.parallel
    if parallel == "config":
        parallel = "residual_first" if "post_norm" not in block else ""
    return {
        "variant": variant,
        "act": config.text("hidden_act", "hidden_activation", default=variant.act),
        "kinds": masks,
        "rotary_dim": rotary,
        "scaled_embeddings": variant.embed_scale == "always",
        "parallel": parallel,
        "qk_norm": variant.qk_norm if "q_norm" in block or "q_norm_0" in block else "",
        "attention_dropout": rate(variant.attention_dropout),
        "embed_dropout": rate(variant.embed_dropout),
        "branch_dropout": rate(variant.branch_dropout),
        "mlp_dropout": rate(variant.mlp_dropout),
        "attn_softcap": variant.softcap and config.raw("attn_logit_softcapping") is not None,
        "softcap": variant.softcap and config.raw("final_logit_softcapping") is not None,
        "clip": config.raw("clip_qkv") is not None,
    }


def _norm(path: str, dim: int, variant: Variant) -> Norm:
    return Norm(path, dim, bias=variant.norm_bias, weight=variant.norm != "fp32_layer", kind=variant.norm)


def _block(
    config: Config, header: Header, variant: Variant, prefix: str, sizes: tuple[int, int, int, int, int]
) -> dict[str, Module]:
    hidden, inner, heads, kv_heads, dim = sizes
    first = f"{prefix}.{variant.stack}.0."

    def linear(path: str, n_in: int, n_out: int, bias: Bias, role: Any = "") -> Linear:
        default = config.flag(bias[0], default=bias[1]) if bias[0] else bias[1]
        return Linear(path, n_in, n_out, header.has_bias(first + path, default), role=role)

    block: dict[str, Module] = {}
    serial = variant.parallel == "config" and config.flag("use_parallel_residual", default=False)
    for slot, path in zip(NORM_SLOTS, variant.norms, strict=True):
        if path is None or (serial and slot == "post_norm"):
            continue
        if path in variant.optional_norms and not config.flag("use_post_norm", default=True):
            continue
        block[slot] = _norm(path, hidden, variant)
    q, kv = heads * dim, kv_heads * dim
    if len(variant.qkv) == 1:
        block["qkv"] = linear(variant.qkv[0], hidden, q + 2 * kv, variant.qkv_bias)
    else:
        for name, path, n in zip(("q_proj", "k_proj", "v_proj"), variant.qkv, (q, kv, kv), strict=True):
            block[name] = linear(path, hidden, n, variant.qkv_bias)
    block["o_proj"] = linear(variant.out, q, hidden, variant.out_bias, "attn_out")
    if variant.qk_norm and (not variant.qk_norm_if or config.flag(variant.qk_norm_if, default=False)):
        block.update(_qk_norms(variant, heads, kv_heads, dim))
    if variant.mlp_kind == "gated":
        block["gate_proj"] = linear(variant.mlp[0], hidden, inner, variant.mlp_bias)
        block["up_proj"] = linear(variant.mlp[1], hidden, inner, variant.mlp_bias)
    else:
        wide = 2 * inner if variant.mlp_kind == "fused" else inner
        block["up_proj"] = linear(variant.mlp[0], hidden, wide, variant.mlp_bias)
    block["down_proj"] = linear(variant.mlp[-1], inner, hidden, variant.mlp_bias, "mlp_out")
    if config.text("hidden_act", default=variant.act) == "xielu":
        block["alpha_p"] = Weight("mlp.act_fn.alpha_p", (1,))
        block["alpha_n"] = Weight("mlp.act_fn.alpha_n", (1,))
    return block


def _qk_norms(variant: Variant, heads: int, kv_heads: int, dim: int) -> dict[str, Module]:
    out: dict[str, Module] = {}
    for slot, path, n in (("q_norm", variant.qk_names[0], heads), ("k_norm", variant.qk_names[1], kv_heads)):
        if variant.qk_norm == "each_head":
            for i in range(n):
                out[f"{slot}_{i}"] = Norm(f"{path}.norms.{i}", dim, kind="layer")
        elif variant.qk_norm == "cohere":
            out[slot] = Norm(path, n * dim, kind="cohere")
        elif variant.qk_norm == "layer":
            out[slot] = Norm(path, dim, bias=True, kind="layer")
        else:
            out[slot] = Norm(path, n * dim if variant.qk_norm == "full" else dim, kind=variant.norm)
    return out


def normalise(g: Any, kind: str, x: Any, norm: Any) -> Any:
    """One norm layer, written as the variant's modeling file writes it."""
    if kind == "rms":
        return g.rms_norm(x, norm.weight)
    if kind == "layer":
        return g.layer_norm(x, norm.weight, norm.bias)
    if kind == "gemma":
        return g.rms_norm_gemma(x, norm.weight)
    if kind == "rms_fp32":
        return g.rms_norm_fp32_weight(x, norm.weight)
    if kind == "rms_cast":
        return g.rms_norm_cast_weight(x, norm.weight)
    if kind == "layer1p":
        return g.layer_norm_1p(x, norm.weight, norm.bias)
    if kind == "fp32_layer":
        return g.to(g.layer_norm(g.float(x), None, None), x.dt)
    return g.layer_norm_cohere(x, norm.weight)


def decode(g: Any, net: Any, batch: Any) -> Any:  # noqa: C901 - nested functions, each of them simple, count as one
    """The model without its head: the last hidden states; masks and tables die with it."""
    arch = net.arch
    facts = arch.facts
    variant: Variant = facts["variant"]
    x = net.embed_tokens(g, batch)
    if variant.embed_scale == "embedding_multiplier":
        x = g.scale(x, "embedding scale")
    embedded = x
    b, s, _ = x.shape
    heads, kv_heads, d = arch.num_attention_heads, arch.num_key_value_heads, arch.head_dim
    how = "eager" if g.attn == "sdpa" and not variant.sdpa else g.attn
    masks = {w: g.causal_mask(b, s, x.dt, batch.padding, window=w, implementation=how) for w in facts["kinds"]}
    x = g.dropout(x, facts["embed_dropout"])
    table_dt = x.dt if not variant.rotary_fp32 else F32
    tables = [g.rotary_tables(1, s, facts["rotary_dim"], table_dt)]
    if variant.tables == "types" and len(facts["kinds"]) > 1:
        tables.append(g.rotary_tables(1, s, facts["rotary_dim"], table_dt))
    rotate: Callable[..., Any] = rotation(g, variant.rotary, facts["rotary_dim"], variant.rotary_fp32)
    act, kind, qk_norm = facts["act"], variant.norm, facts["qk_norm"]
    bhsd = variant.rotary in ("joined", "joined_each", "interleaved_joined")
    inline = qk_norm if variant.qk_when == "inline" else ""

    def project(m: Any, h: Any) -> Any:
        if len(variant.qkv) == 1:
            qkv = m.qkv(g, h)
            q = g.slice(qkv, (b, s, heads * d))
            if variant.grouped_qkv and kv_heads > 1:
                q = g.clone(q, "rearrange")
            k = g.slice(qkv, (b, s, kv_heads * d))
            v = g.slice(qkv, (b, s, kv_heads * d))
            return q.view(b, heads, s, d), k.view(b, kv_heads, s, d), v.view(b, kv_heads, s, d)
        q = m.q_proj(g, h)
        if inline:
            q = normalise(g, kind, q.view(b, s, heads, d) if inline == "head" else q, m.q_norm)
        k = m.k_proj(g, h)
        if inline:
            k = normalise(g, kind, k.view(b, s, kv_heads, d) if inline == "head" else k, m.k_norm)
        v = m.v_proj(g, h)
        if facts["clip"]:
            q, k, v = g.clamp_(q), g.clamp_(k), g.clamp_(v)
        return q.view(b, heads, s, d), k.view(b, kv_heads, s, d), v.view(b, kv_heads, s, d)

    def head_norm(m: Any, x: Any, name: str, n: int) -> Any:
        """q_norm or k_norm of one layer."""
        if qk_norm == "each_head":
            parts = g.split(x, [(b, 1, s, d)] * n)
            return g.cat([normalise(g, "layer", p, getattr(m, f"{name}_{i}")) for i, p in enumerate(parts)], x.shape)
        if qk_norm == "cohere":
            return g.layer_norm_cohere(x.view(b, s, n * d), getattr(m, name).weight, d).view(b, n, s, d)
        return normalise(g, "layer" if qk_norm == "layer" else kind, x, getattr(m, name))

    def attention(m: Any, h: Any, mask: Any, table: Any) -> Any:
        q, k, v = project(m, h)
        if qk_norm and variant.qk_when == "after":
            q = head_norm(m, q, "q_norm", heads)
            k = head_norm(m, k, "k_norm", kv_heads)
        if m.facts["rotary"]:
            q, k = rotate(q, k, *table)
        if qk_norm and variant.qk_when == "rope":
            q = head_norm(m, q, "q_norm", heads)
            k = head_norm(m, k, "k_norm", kv_heads)
        k, v, mask = net.with_prefix(g, m, k, v, mask)
        h = g.attention(
            q,
            k,
            v,
            mask,
            dropout=facts["attention_dropout"],
            softcap=facts["attn_softcap"],
            bhsd=bhsd,
            implementation=how,
        )
        return g.dropout(m.o_proj(g, h), facts["branch_dropout"])

    def gated(m: Any, h: Any) -> Any:
        if g.liger_mlp:
            return g.glu(act, m.gate_proj(g, h), m.up_proj(g, h))
        return g.mul(g.act(act, m.gate_proj(g, h)), m.up_proj(g, h))

    def mlp(m: Any, h: Any) -> Any:
        if variant.mlp_kind == "gated":
            h = gated(m, h)
            h = m.down_proj(g, h)
        elif variant.mlp_kind == "fused":
            up = m.up_proj(g, h)
            half = (*up.shape[:-1], up.shape[-1] // 2)
            gate, up = g.split(up, [half, half])
            up = g.glu(act, gate, up)
            h = m.down_proj(g, up)
        else:
            h = m.up_proj(g, h)
            h = g.xielu(h, m.alpha_p, m.alpha_n) if act == "xielu" else g.act(act, h)
            h = m.down_proj(g, h)
        return g.dropout(h, facts["branch_dropout"] or facts["mlp_dropout"])

    before, attn_after, mlp_before, mlp_after = (n is not None for n in variant.norms)

    def side_by_side(m: Any, x: Any, mask: Any, table: Any) -> Any:
        h = normalise(g, kind, x, m.input_norm)
        out = attention(m, h, mask, table)
        ff = mlp(m, h)
        if facts["parallel"] == "residual_last":
            return g.add(g.add(out, ff), x)
        return g.add(g.add(x, out), ff)

    def serial(m: Any, x: Any, mask: Any, table: Any) -> Any:
        h = normalise(g, kind, x, m.input_norm) if before else x
        h = attention(m, h, mask, table)
        if attn_after and hasattr(m, "attn_out_norm"):
            h = normalise(g, kind, h, m.attn_out_norm)
        if variant.residual_scale:
            h = g.add(x, g.scale(h, "residual multiplier"))
        else:
            h = g.add(x, h)
        x = h
        if mlp_before:
            h = normalise(g, kind, h, m.post_norm)
        h = mlp(m, h)
        if mlp_after and hasattr(m, "mlp_out_norm"):
            h = normalise(g, kind, h, m.mlp_out_norm)
        if variant.residual_scale:
            return g.add(x, g.scale(h, "residual multiplier"))
        return g.add(x, h)

    body = side_by_side if facts["parallel"] else serial

    def layer_of(window: int | None) -> Callable[[Any, Any], Any]:
        mask, table = masks[window], tables[-1 if window is not None else 0]
        return lambda m, x: body(m, x, mask, table)

    layers = [layer_of(block.facts["window"]) for block in arch.stacks["layers"].blocks]
    x = net.run(g, "layers", layers, x)
    del embedded
    return normalise(g, kind, x, net.norm)


def forward(g: Any, net: Any, batch: Any) -> Any:
    """LlamaForCausalLM.forward and its like."""
    facts = net.arch.facts
    x = decode(g, net, batch)
    return net.causal_loss(g, x, batch, softcap=facts["softcap"], scaled=facts["variant"].logit_scale)


FAMILY = Family(
    name="llama",
    model_types=tuple(VARIANTS),
    build=build,
    source="transformers 5.23 models/*/modeling_*.py of each model type",
    examples=(
        "meta-llama/Llama-3.1-8B",
        "mistralai/Mistral-7B-v0.1",
        "Qwen/Qwen2.5-7B",
        "google/gemma-2-2b",
        "microsoft/Phi-3-mini-4k-instruct",
        "allenai/OLMo-2-1124-7B",
    ),
)
