"""How sparse layers choose experts: logits, weights of the chosen experts, and which they are.

Each is the router of one or more modeling files (transformers 5.23); x is
(tokens, hidden), logits are (tokens, experts), weights and indices (tokens, k).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hubvram.timeline.dtypes import F32


def route(g: Any, m: Any, flat: Any, facts: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Router logits, weights of the chosen experts and their indices."""
    router, k = facts["router"], facts["k"]
    if router == "group":
        return route_groups(g, m, flat, facts)
    if facts["legacy"] or router == "mixer":
        logits = m.gate(g, flat)
        if router == "mixer":
            weights, index = mixer(g, logits)
            return logits, weights, index
        weights, index = g.softmax_topk(logits, k, normalise=router == "mixtral" or facts["normalise"], cast=flat.dt)
        return logits, weights, index
    opened = g.opened(m.gate)
    logits = g.linear(flat, opened.value(g), None, "router")
    if router == "granite":
        logits = g.float(logits)
        top, index = g.topk(logits, k)
        return logits, g.to(g.softmax(top, None), flat.dt), index
    if router == "mixtral":
        probs = g.softmax(g.float(logits), F32)
        weights, index = g.topk(probs, k)
        return logits, g.div_(weights, g.sum_last(weights)), index
    weights, index = g.softmax_topk(logits, k, normalise=facts["normalise"], cast=logits.dt)
    return logits, weights, index


def route_groups(g: Any, m: Any, flat: Any, facts: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """DeepSeek-V3's: fp32 logits, sigmoid, best groups, best k, normalised and scaled."""
    opened = g.opened(m.gate)
    logits = g.linear(g.to(flat, F32), g.to(opened.value(g), F32), None, "router")
    scores = g.sigmoid(logits)
    index = choose_groups(g, scores, facts)
    weights = g.take_along(scores, index)
    if facts["normalise"]:
        weights = g.div_(weights, g.add_scalar(g.sum_last(weights)))
    return logits, g.scale(weights), index


def choose_groups(g: Any, scores: Any, facts: Mapping[str, Any]) -> Any:
    """The best k experts of the best groups; no gradient flows through the choice."""
    tokens, experts = scores.shape
    plain = scores.detach()
    choice = g.add_scalar(plain)
    groups = facts["groups"]
    best, _ = g.topk(choice.view(tokens * groups, experts // groups), 2)
    del _
    group_scores = g.sum_last(best)
    mask = g.ones((tokens, groups), F32, "group mask")
    score_mask = g.ones((tokens, experts), F32, "score mask")
    choice = g.add_scalar(choice)
    del best, group_scores, mask, score_mask
    _, index = g.topk(choice, facts["k"])
    return index


def mixer(g: Any, scores: Any) -> tuple[Any, Any]:
    """Phi-MoE's ``sparsemixer``: two sampled experts a token; small tensors of (tokens, experts)."""
    first, one = mixer_half(g, scores, scores)
    second, two = mixer_half(g, scores, g.scale(scores, "scatter"))
    weights = g.cat((first, second), (first.shape[0], 2))
    index = g.cat((one, two), (first.shape[0], 2))
    return weights, index


def mixer_half(g: Any, scores: Any, masked: Any) -> tuple[Any, Any]:
    """One of the two choices."""
    gates = g.softmax(g.scale(masked, "masked_fill"), None)
    _, index = g.topk(gates.detach(), 1)
    weights = g.mixer_weight(scores, gates, index)
    return weights, index
