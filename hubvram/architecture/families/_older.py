"""Old ways that several families share: a loss inside the model, a norm that keeps its input twice."""

from __future__ import annotations

from typing import Any

from hubvram.timeline.dtypes import BF16, F16, F32


def shifted_loss(g: Any, net: Any, logits: list[Any], *, upcast: bool) -> Any:
    """Cross entropy on a contiguous copy of all logits but the last; ``upcast``: of their fp32 copy.

    ``logits`` is a one-element list: the fp32 copy takes the place of the
    16-bit logits where the model rebinds its variable.
    """
    low = logits[0].dt
    if upcast:
        logits[0] = g.float(logits[0])
    part = g.shift_logits(logits[0])
    loss = g.cross_entropy(part)
    logits[0] = g.to(logits[0].detach(), low)
    if net.plan.keeps_outputs:
        net.outputs = logits[0]
    return loss


def own_loss(g: Any, net: Any, logits: list[Any], *, upcast: bool) -> Any:
    """`shifted_loss`, then accelerate's ConvertOutputsToFp32 of what was returned, where Trainer runs the model."""
    loss = shifted_loss(g, net, logits, upcast=upcast)
    if g.t.autocast is not None and not net.plan.keeps_outputs:
        g.to(logits[0].detach(), F32)
    return loss


def causal_loss(g: Any, net: Any, x: Any, batch: Any, *, upcast: bool = False) -> Any:
    """The loss of models that had their own until transformers 4.50 took ``loss_function`` for all.

    ``upcast``: theirs was taken in fp32.
    """
    if not net.plan.training or g.transformers >= (4, 50) or net.plan.settings.use_liger_kernel:
        return net.causal_loss(g, x, batch)
    logits = net.lm_head(g, x)
    loss = shifted_loss(g, net, [logits], upcast=upcast)
    # Measured on GPTBigCode under SFTTrainer (A100, transformers 4.44 and 4.48; bf16 flag off and on): what the
    # model returned is alive all through backward, the 16-bit logits and accelerate's fp32 copy of them
    # (ConvertOutputsToFp32). What holds them was not found; Llama and Mistral runs of the same kind do not.
    net.returned = [logits.detach()]
    if g.t.autocast is not None:
        net.returned.append(g.to(logits.detach(), F32))
    return loss


def rms_norm_twice(g: Any, x: Any, w: Any, *, weight_in_fp32: bool) -> Any:
    """``x * rsqrt(mean(x.float() ** 2))``: keeps x and its fp32 copy.

    The product is cast back before the weight (Baichuan) or after it (ChatGLM).
    """
    src = x.dt
    variance = g.mean_last(g.pow(g.to(x, F32)))
    h = g.mul(x, g.rsqrt(g.add_scalar(variance)))
    del variance
    if weight_in_fp32:
        return g.to(g.mul(w, h), src)
    if w.dt in (F16, BF16):
        h = g.to(h, w.dt)
    return g.mul(w, h)
