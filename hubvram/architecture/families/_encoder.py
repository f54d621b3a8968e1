"""What encoder families share: the classification task and its head, BERT's embeddings and self-attention.

An encoder is fine-tuned as a sequence classifier here. The checkpoint's own
head (masked language model, pooler, none) gives way to the one that
``AutoModelForSequenceClassification`` builds.
"""

from __future__ import annotations

from typing import Any

from hubvram.architecture.config import Config
from hubvram.architecture.modules import Embedding, Linear, Module, Norm, Weight


def num_labels(config: Config) -> int:
    """Classes: ``id2label`` or ``num_labels`` of the config, else transformers' default of 2."""
    labels = config.raw("id2label")
    if isinstance(labels, dict) and labels:
        return len(labels)
    return config.positive("num_labels", default=2)


def head_assumption(config: Config, labels: int) -> tuple[str, ...]:
    """What was assumed about the task; nothing where the checkpoint is a sequence classifier."""
    names = config.raw("architectures")
    first = names[0] if isinstance(names, list) and names else "no class"
    if isinstance(first, str) and first.endswith("ForSequenceClassification"):
        return ()
    return (f"trained as a sequence classifier with {labels} labels: the checkpoint ({first}) gets a new head",)


def layer_norm(path: str, dim: int) -> Norm:
    """``nn.LayerNorm`` with weight and bias."""
    return Norm(path, dim, bias=True, kind="layer")


def biased(path: str, n_in: int, n_out: int, role: Any = "") -> Linear:
    """``nn.Linear`` with a bias."""
    return Linear(path, n_in, n_out, True, role=role)


def convolution(path: str, n_in: int, n_out: int, kernel: int, *, bias: bool = True, groups: int = 1) -> Linear:
    """``nn.Conv1d``: n_in to n_out channels over ``kernel`` places."""
    return Linear(
        path, n_in // groups * kernel, n_out, bias, kind="Conv1d", weight_shape=(n_out, n_in // groups, kernel)
    )


def index_buffer(path: str, length: int) -> Weight:
    """An int64 buffer of positions or token types, shape (1, length)."""
    return Weight(path, (1, length), buffer=True, dtype="int64")


def pooled_head(width: int, labels: int, base: str) -> dict[str, Module]:
    """BERT's: tanh pooler over the first token, then one linear layer."""
    return {
        "pooler": biased(f"{base}.pooler.dense", width, width),
        "classifier": biased("classifier", width, labels, "head"),
    }


def two_layer_head(width: int, labels: int) -> dict[str, Module]:
    """RoBERTa's ``ClassificationHead``: dense, activation, out_proj."""
    return {
        "dense": biased("classifier.dense", width, width, "head"),
        "out_proj": biased("classifier.out_proj", width, labels, "head"),
    }


def run_pooled_head(g: Any, net: Any, x: Any, dropout: float) -> Any:
    """Logits of `pooled_head`."""
    pooled = net.pooler(g, g.slice(x, (x.shape[0], x.shape[2])))
    pooled = g.tanh(pooled)
    pooled = g.dropout(pooled, dropout)
    return net.classifier(g, pooled)


def run_two_layer_head(g: Any, net: Any, x: Any, dropout: float, act: str = "tanh") -> Any:
    """Logits of `two_layer_head`."""
    h = g.slice(x, (x.shape[0], x.shape[2]))
    h = g.dropout(h, dropout)
    h = net.dense(g, h)
    h = g.act(act, h)
    h = g.dropout(h, dropout)
    return net.out_proj(g, h)


def classification_loss(g: Any, net: Any, logits: Any, batch: Any) -> Any:
    """``CrossEntropyLoss`` over one row of logits a sample; inference has none."""
    if not net.plan.training:
        return logits
    net.inputs.append(g.ids(batch.size))
    return g.cross_entropy(logits)


def seq2seq_loss(g: Any, net: Any, logits: Any, batch: Any) -> Any:
    """``CrossEntropyLoss`` over every target token, on the logits as they are."""
    if not net.plan.training:
        return logits
    net.inputs.append(g.ids(batch.size, batch.tokens))
    return g.cross_entropy(logits.view(-1, logits.shape[-1]))


def embed(g: Any, net: Any, batch: Any, dropout: float, *, from_ids: bool) -> Any:
    """BERT's embeddings: words + token types + positions, LayerNorm, dropout.

    ``from_ids``: positions are counted from the input ids (RoBERTa), one row a
    sample; else they are a slice of a buffer and broadcast.
    """
    words = net.embed_tokens(g, batch)
    b, s, _ = words.shape
    positions = g.ids(b, s) if from_ids else g.stored((1, s))
    if getattr(net, "token_types", None) is not None:
        gathered = g.ids(*positions.shape)
        types = g.embedding(
            gathered.view(*positions.shape) if from_ids else g.expanded(gathered, (b, s)),
            net.token_types.weight,
            "token type embeddings",
        )
        x = g.add(words, types)
        places = g.embedding(positions, net.positions.weight, "position embeddings")
        x = g.add(x, places)
    else:
        places = g.embedding(positions, net.positions.weight, "position embeddings")
        x = g.add(words, places)
    x = g.layer_norm(x, net.embed_norm.weight, net.embed_norm.bias)
    return g.dropout(x, dropout)


def embedding_modules(prefix: str, vocab: int, width: int, places: int, types: int = 0) -> dict[str, Module]:
    """``BertEmbeddings`` at ``prefix``: words, positions, token types if there are any, LayerNorm, id buffers."""
    out: dict[str, Module] = {
        "embed": Embedding(f"{prefix}.word_embeddings", vocab, width),
        "positions": Embedding(f"{prefix}.position_embeddings", places, width),
    }
    if types:
        out["token_types"] = Embedding(f"{prefix}.token_type_embeddings", types, width)
    out["embed_norm"] = layer_norm(f"{prefix}.LayerNorm", width)
    out["position_ids"] = index_buffer(f"{prefix}.position_ids", places)
    if types:
        out["token_type_ids"] = index_buffer(f"{prefix}.token_type_ids", places)
    return out


def add_norm(g: Any, linear: Any, norm: Any, h: Any, residual: Any, dropout: float) -> Any:
    """``BertSelfOutput.forward`` and ``BertOutput.forward``: dense, dropout, LayerNorm of the sum with the residual."""
    h = linear(g, h)
    h = g.dropout(h, dropout)
    return g.layer_norm(g.add(h, residual), norm.weight, norm.bias)


def plain_attention(g: Any, q: Any, k: Any, v: Any, mask: Any, dropout: float) -> Any:
    """Attention in both directions; eager code (BERT's) does not cast the weights back after softmax."""
    return g.attention(q, k, v, mask, causal=False, dropout=dropout, fp32_softmax=False, cast_back=False)


def heads_first(x: Any, heads: int) -> Any:
    """(batch, tokens, heads * dim) as (batch, heads, tokens, dim)."""
    b, s, width = x.shape
    return x.view(b, heads, s, width // heads)
