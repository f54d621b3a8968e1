"""What decoders with Llama's outline share: kinds of layers, the usual modules, and the order inside a layer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Any, TypeVar

from hubvram.architecture.config import Config
from hubvram.architecture.modules import Block, Embedding, Linear, Module, Norm, Stack

K = TypeVar("K", bound=Hashable)


def kinds_of(keys: Iterable[K]) -> tuple[list[K], tuple[int, ...]]:
    """Distinct keys, as layers first have them, and per layer which it has."""
    index: dict[K, int] = {}
    order = tuple(index.setdefault(key, len(index)) for key in keys)
    return list(index), order


def stack_of(path: str, keys: Iterable[K], block: Callable[[K], Block]) -> Stack:
    """The layers at ``path``, a key each: layers of equal keys are one `Block`, which ``block`` makes of the key."""
    kinds, order = kinds_of(keys)
    return Stack(path, tuple(block(key) for key in kinds), order)


def ends(
    hidden: int, vocab: int, embed: str = "model.embed_tokens", norm: str = "model.norm", *, kind: str = "rms"
) -> dict[str, Module]:
    """What stands before and after the layers: token embeddings, the last norm, a head without a bias."""
    return {
        "embed": Embedding(embed, vocab, hidden),
        "norm": Norm(norm, hidden, bias=kind == "layer", kind=kind),
        "lm_head": Linear("lm_head", hidden, vocab, role="head"),
    }


def tied_head(config: Config, *, default: bool = False) -> dict[str, str]:
    """The head shares the embeddings' weight under ``tie_word_embeddings``."""
    return {"lm_head": "embed"} if config.flag("tie_word_embeddings", default=default) else {}


def projections(
    hidden: int, heads: int, kv_heads: int, dim: int, bias: bool = False, o_bias: bool | None = None
) -> dict[str, Module]:
    """``LlamaAttention``: q, k, v and o; ``o_bias`` where o's bias is not as the others'."""
    return {
        "q_proj": Linear("self_attn.q_proj", hidden, heads * dim, bias),
        "k_proj": Linear("self_attn.k_proj", hidden, kv_heads * dim, bias),
        "v_proj": Linear("self_attn.v_proj", hidden, kv_heads * dim, bias),
        "o_proj": Linear("self_attn.o_proj", heads * dim, hidden, bias if o_bias is None else o_bias, role="attn_out"),
    }


def gated_mlp(path: str, hidden: int, inner: int, prefix: str = "", bias: bool = False) -> dict[str, Module]:
    """``LlamaMLP`` at ``path``; attribute names with a prefix."""
    return {
        f"{prefix}gate_proj": Linear(f"{path}.gate_proj", hidden, inner, bias),
        f"{prefix}up_proj": Linear(f"{path}.up_proj", hidden, inner, bias),
        f"{prefix}down_proj": Linear(f"{path}.down_proj", inner, hidden, bias, role="mlp_out"),
    }


def decoder_layer(
    g: Any, norm: Callable[[Any, Any], Any], attention: Callable[[Any, Any], Any], mlp: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Any]:
    """``LlamaDecoderLayer.forward``: (batch, tokens, hidden) in and out.

    ``norm(x, weight)`` is the model's RMSNorm, ``attention(m, h)`` and
    ``mlp(m, h)`` what it has in those places.
    """

    def layer(m: Any, x: Any) -> Any:
        h = norm(x, m.input_norm.weight)
        h = attention(m, h)
        x = g.add(x, h)
        h = norm(x, m.post_norm.weight)
        h = mlp(m, h)
        return g.add(x, h)

    return layer


def run_gated_mlp(g: Any, m: Any, h: Any, act: str) -> Any:
    """``LlamaMLP.forward``: (..., hidden) in and out."""
    return m.down_proj(g, g.glu(act, m.gate_proj(g, h), m.up_proj(g, h)))


def rms_without_weight(g: Any, x: Any) -> Any:
    """RMSNorm in fp32 without a weight (Falcon-Mamba's ``rms_forward``, Llama 4's ``Llama4TextL2Norm``)."""
    return g.to(g.rms_normalise(g.float(x)), x.dt)
