"""Attention: the kernel PyTorch would choose, what it keeps and what it needs in passing.

Sources: torch 2.13 ``native/transformers/cuda/sdp_utils.cpp`` (choice),
``flash_attn/flash_api.cpp`` and ``mem_eff_attention`` (buffers),
``native/transformers/attention.cpp`` (math), transformers 5.23
``integrations/sdpa_attention.py`` and ``eager_attention_forward``.
Shapes are (batch, heads, tokens, head_dim).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from hubvram.timeline.dtypes import BF16, BOOL, F16, F32, I64, DType
from hubvram.timeline.ops.activation import ActivationOps
from hubvram.timeline.tracer import Storage, Tensor


def _up(x: int, to: int) -> int:
    return (x + to - 1) // to * to


@dataclass(frozen=True, slots=True)
class Mask:
    """An attention mask that the model made once for all layers.

    ``tensor`` holds the storage; ``heads`` is 1 unless the mask differs per head.
    """

    tensor: Tensor
    heads: int = 1

    @property
    def is_bool(self) -> bool:
        """Boolean masks become float masks inside sdpa, per layer."""
        return self.tensor.dt is BOOL


class AttentionOps(ActivationOps):
    """Rotary embedding, mask, eager attention, sdpa."""

    # ---- rotary ---------------------------------------------------------

    def rotary_tables(self, batch: int, tokens: int, dim: int, dt: DType) -> tuple[Tensor, Tensor]:
        """cos and sin of shape (batch, tokens, dim), made once under no_grad (LlamaRotaryEmbedding.forward)."""
        t = self.t
        shape = (batch, tokens, dim)
        with t.no_grad():
            half = self.ones((batch, tokens, dim // 2), F32, "rotary freqs")
            emb = self.ones(shape, F32, "rotary emb")
            del half
            cos = self.ones(shape, F32, "rotary cos")
            sin = self.ones(shape, F32, "rotary sin")
            del emb
            if dt is F32:
                return cos, sin
            cos_low = self.ones(shape, dt, "rotary cos")
            del cos
            sin_low = self.ones(shape, dt, "rotary sin")
            del sin
        return cos_low, sin_low

    def rotate_half(self, x: Tensor) -> Tensor:
        """``cat((-x2, x1))``: slices, a negated half, their join."""
        half = (*x.shape[:-1], x.shape[-1] // 2)
        first = self.slice(x, half)
        second = self.slice(x, half)
        return self.cat((self.scale(second, "neg"), first), x.shape)

    def rotary_one(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """``x * cos + rotate_half(x) * sin``."""
        straight = self.mul(x, cos)
        return self.add(straight, self.mul(self.rotate_half(x), sin))

    def rotary(self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        """``apply_rotary_pos_emb``; liger's kernel turns q and k in place and keeps only cos and sin."""
        if self.liger:
            return self._rotary_in_place(q, cos, sin), self._rotary_in_place(k, cos, sin)
        q_out = self.rotary_one(q, cos, sin)
        return q_out, self.rotary_one(k, cos, sin)

    def _rotary_in_place(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        t = self.t
        if not t.wants_grad(x):
            return x
        node = t.node(lambda g: (g,), (x,))
        t.save(node, "liger rope", cos, sin)
        return Tensor(x.st, x.shape, x.n, x.dt, True, node)

    def rotary_part(self, x: Tensor, cos: Tensor, sin: Tensor, dim: int) -> Tensor:
        """Rotary on the first ``dim`` of head_dim, joined with the rest (partial_rotary_factor)."""
        whole = x.shape
        if dim == whole[-1]:
            return self.rotary_one(x, cos, sin)
        turned = self.rotary_one(self.slice(x, (*whole[:-1], dim)), cos, sin)
        rest = self.slice(x, (*whole[:-1], whole[-1] - dim))
        return self.cat((turned, rest), whole)

    # ---- masks ----------------------------------------------------------

    def causal_mask(
        self,
        batch: int,
        tokens: int,
        dt: DType,
        padding: bool,
        *,
        window: int | None = None,
        causal: bool = True,
        implementation: str | None = None,
        always: bool = False,
    ) -> Mask | None:
        """What ``create_causal_mask`` returns (masking_utils.py, transformers 5.23).

        sdpa needs none without padding, unless a sliding window is shorter than
        the sequence; flash_attention_2 takes the 2-D mask; eager always gets a float mask.
        """
        attn = implementation or self.attn
        if attn == "flash_attention_2":
            return None
        past = self.past if causal else 0  # a filled cache: the mask is needed, and as much wider
        keys = tokens + past
        short = window is not None and window < keys
        rows = batch if padding else 1  # without padding the boolean mask is one for all, expanded
        if attn == "sdpa":
            if not (padding or short or past or always):
                return None
            return Mask(self.ones((rows, 1, tokens, keys), BOOL, "attention mask"))
        if not causal and not padding:
            return None
        allowed = self.ones((rows, 1, tokens, keys), BOOL, "attention mask (bool)")
        mask = Mask(self.ones((batch, 1, tokens, keys), dt, "attention mask"))
        del allowed
        return mask

    # ---- attention ------------------------------------------------------

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None,
        *,
        causal: bool = True,
        dropout: float = 0.0,
        implementation: str | None = None,
        fp32_softmax: bool = True,
        softcap: bool = False,
        bhsd: bool = False,
        cast_back: bool = True,
    ) -> Tensor:
        """The model's attention interface; returns (batch, tokens, heads * head_dim), contiguous.

        ``bhsd``: q and k lie in memory as (batch, heads, tokens, dim) (made by ``torch.cat``), not as
        transposed views of (batch, tokens, heads, dim). ``cast_back``: eager code casts the weights to the
        values' dtype after softmax; where it does not, autocast leaves them fp32 up to the product.
        """
        attn = implementation or self.attn
        b, h, s, _ = q.shape
        dv = v.shape[-1]
        if attn == "eager":
            out = self.eager(
                q,
                k,
                v,
                mask,
                dropout=dropout,
                fp32_softmax=fp32_softmax,
                softcap=softcap,
                bhsd=bhsd,
                cast_back=cast_back,
            )
            return self.clone(out).view(b, s, h * dv)
        if attn == "flash_attention_2":
            if q.dt is F32 and self.t.autocast is None:  # the integration casts fp32 down to the model's half type
                q, k, v = self.to(q, BF16), self.to(k, BF16), self.to(v, BF16)
            return self.flash(self.lower(q), self.lower(k), self.lower(v)).view(b, s, h * dv)
        if h != k.shape[1] and not (mask is None and k.shape[-1] == dv <= 256 and self.gqa_in_sdpa):
            k = self.repeat_kv(k, h)
            v = self.repeat_kv(v, h)
        out, layout_bshd = self.sdpa(q, k, v, mask, causal=causal and mask is None, dropout=dropout, bhsd=bhsd)
        if not layout_bshd:
            out = self.clone(out)
        return out.view(b, s, h * dv)

    @property
    def gqa_in_sdpa(self) -> bool:
        """Whether transformers hands grouped K and V to sdpa (``use_gqa_in_sdpa``: from 4.48 with torch 2.5)."""
        return self.transformers >= (4, 48) and self.torch >= (2, 5)

    def repeat_kv(self, x: Tensor, heads: int) -> Tensor:
        """``repeat_kv``: a copy for every head; a single head is expanded as a view (stride 0)."""
        shape = (x.shape[0], heads, *x.shape[2:])
        t = self.t
        if x.shape[1] != 1:
            return self.expand(x, shape)
        size = prod(shape)
        if not t.wants_grad(x):
            return Tensor(x.st, shape, size, x.dt)
        new, n, dt, small = t.new, x.n, x.dt, x.shape
        node = t.node(lambda g: (new(n * dt.size, "repeat_kv backward", small, dt),), (x,))
        return Tensor(x.st, shape, size, dt, True, node)

    def eager(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None,
        *,
        dropout: float = 0.0,
        fp32_softmax: bool = True,
        softcap: bool = False,
        bhsd: bool = False,
        cast_back: bool = True,
    ) -> Tensor:
        """``eager_attention_forward``: scores, mask, fp32 softmax, cast, dropout, product."""
        b, h, s, _ = q.shape
        sk = k.shape[2]
        same, single = k.shape[1] == h, k.shape[1] == 1
        if not same:
            k = self.repeat_kv(k, h)
            v = self.repeat_kv(v, h)
        q, k, v = self.lower(q), self.lower(k), self.lower(v)
        dt = q.dt
        if b > 1:  # matmul's reshape to 3-D copies what is laid out as (batch, tokens, heads, dim)
            if not bhsd:
                q = self.clone(q, "matmul reshape")
            if single or (same and not bhsd):
                k = self.clone(k, "matmul reshape")
        shape = (b, h, s, sk)
        w = self.scale(self.matmul(q, k, shape, "attention scores"), "scores scale")
        if softcap:
            w = self.scale(self.tanh(self.scale(w, "softcap")), "softcap")
        if mask is not None:
            w = self.add(w, mask.tensor)
        if fp32_softmax:
            w = self.to(self.softmax(w, F32), dt)
        else:
            w = self.softmax(w, None)
            if cast_back:
                w = self.to(w, dt)
        w = self.dropout(w, dropout)
        if not cast_back and self.transformers >= (4, 48):
            self._weights = w
        if b > 1 and (same or single):
            v = self.clone(v, "matmul reshape")
        return self.matmul(w, v, (b, h, s, v.shape[-1]), "attention output")

    _weights: Tensor | None = None

    def returned_weights(self) -> Tensor | None:
        """The attention weights that eager code returns beside its output (from transformers 4.48 on, in any case).

        The layer holds them while it runs. They matter where autocast saves a half copy of them instead.
        """
        w, self._weights = self._weights, None
        return w

    def softmax(self, x: Tensor, dt: DType | None) -> Tensor:
        """``softmax(x, dtype=dt)``: keeps its result; the CUDA backward makes grad * output beside its own output."""
        if dt is None and self.t.autocast is not None and x.dt in (F16, BF16):
            dt = F32  # autocast sets dtype=float32
        if dt is None or x.dt is dt:
            return self._softmax_kernel(x, x.dt)
        if x.dt is F16 and dt is F32:  # SoftMax.cpp: only fp16 has a kernel that reads half and writes fp32
            return self._softmax_kernel(x, dt)
        return self._softmax_kernel(self.to(x, dt), dt)

    def _softmax_kernel(self, x: Tensor, dt: DType) -> Tensor:
        new, n, shape, src = self.t.new, x.n, x.shape, x.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            out = new(n * src.size, "softmax backward", shape, src)
            product = new(n * dt.size, "softmax backward (grad * output)", shape, dt)
            del product
            return (out,)

        return self.apply("softmax", (x,), shape, dt, bw, save_result=True)

    # ---- sdpa -----------------------------------------------------------

    def sdpa(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Mask | None,
        *,
        causal: bool,
        dropout: float = 0.0,
        bhsd: bool = False,
        gqa: bool = True,
    ) -> tuple[Tensor, bool]:
        """``F.scaled_dot_product_attention``; also says whether the output lies as (batch, tokens, heads, dim).

        The flash kernel's output lies as q does (``empty_like``); padding the head size makes q contiguous.
        ``gqa`` is ``enable_gqa``: without it fewer heads in k and v are broadcast, which only the math kernel does.
        """
        q, k, v = self.lower(q), self.lower(k), self.lower(v)
        half = q.dt in (F16, BF16)
        d, dv = q.shape[-1], v.shape[-1]
        same = q.shape[1] == k.shape[1]
        dense: Tensor | None = None
        if mask is not None:
            dense = mask.tensor
            if dense.dt is BOOL or dense.dt is not q.dt:
                dense = self.ones((q.shape[0], *dense.shape[1:]), q.dt, "sdpa float mask")
        dropout = dropout if self.training else 0.0
        flash = self.sm >= 80 and mask is None and half and d == dv <= 256 and (same or gqa)
        if flash and not (causal and q.shape[2] != k.shape[2]):
            return self.flash(q, k, v), not (bhsd or d % 8)
        align = 8 if half else 4
        allowed = not half or q.dt is F16 or self.sm >= 80
        grouped = gqa and self.torch >= (2, 14)  # the memory-efficient kernel takes grouped K and V from torch 2.14
        if allowed and (same or grouped) and d % align == 0 and dv % align == 0:
            return self.efficient(q, k, v, dense), True
        with self.t.autocasting(None):  # autocast casts sdpa's inputs and is off inside
            return self.sdpa_math(q, k, v, dense, causal=causal, dropout=dropout, gqa=gqa), False

    def flash(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """FlashAttention-2: keeps q, k, v, the output and fp32 log-sum-exp; backward accumulates dq in fp32.

        Under grouped heads dk and dv are first made for all heads. Head sizes that are
        no multiple of 8 are padded by copies.
        """
        pad = -q.shape[-1] % 8
        d0 = q.shape[-1]
        if pad:
            q, k, v = (self._pad(x, pad) for x in (q, k, v))
        t = self.t
        b, h, s, d = q.shape
        hk, sk = k.shape[1], k.shape[2]
        dt = q.dt
        new, rq, rk, rv, nq, nk = t.new, q.rg, k.rg, v.rg, q.n * dt.size, k.n * dt.size
        qs, ks = q.shape, k.shape
        wide = _up(d, 32) if d <= 128 else _up(d, 64)
        passing = [b * _up(s, 128) * h * wide * 4, b * h * _up(s, 128) * 4]
        if hk != h:
            passing += [b * sk * h * d * dt.size] * 2

        def bw(g: Storage) -> Sequence[Storage | None]:
            dq = new(nq, "flash dq", qs, dt)
            dk = new(nk, "flash dk", ks, dt)
            dv = new(nk, "flash dv", ks, dt)
            t.passing(*passing, op="flash backward workspace")
            return dq if rq else None, dk if rk else None, dv if rv else None

        out = self.apply("flash attention", (q, k, v), qs, dt, bw, save=(q, k, v))
        lse = t.tensor((b, h, s), F32, "flash logsumexp")
        seed = t.tensor((2,), I64, "philox seed")
        offset = t.tensor((1,), I64, "philox offset")
        if out.rg:
            t.save(out.node, "flash attention", out, lse, seed, offset)
        return self.slice(out, (b, h, s, d0)) if pad else out

    def _pad(self, x: Tensor, by: int) -> Tensor:
        new, n, shape, dt = self.t.new, x.n, x.shape, x.dt

        def bw(g: Storage) -> Sequence[Storage | None]:
            return (new(n * dt.size, "pad backward", shape, dt),)

        return self.apply("pad", (x,), (*shape[:-1], shape[-1] + by), dt, bw)

    def efficient(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, aligned: bool = False) -> Tensor:
        """The memory-efficient (CUTLASS) kernel: keeps q, k, v, mask, output, log-sum-exp padded to 32.

        A mask that needs a gradient (position bias) gets one of the expanded size; ``aligned``: its rows are padded.
        """
        t = self.t
        b, h, s, d = q.shape
        sk, dv = k.shape[2], v.shape[3]
        dt = q.dt
        if mask is not None and sk % 16 and not aligned:  # rows of the bias are padded to 16 elements
            mask = self.ones((*mask.shape[:-1], _up(sk, 16)), mask.dt, "sdpa mask padded")
        new, rq, rk, rv = t.new, q.rg, k.rg, v.rg
        qs, ks, vs = q.shape, k.shape, v.shape
        sizes = (q.n * dt.size, k.n * dt.size, v.n * dt.size)
        grouped = h != k.shape[1]
        passing = [b * h * s * 4]
        if dt is not F32:
            per = _up(s, 64) * _up(d, 32)
            if max(d, dv) > 128:
                per += _up(sk, 64) * (_up(d, 64) + _up(dv, 64))
            passing.append(b * h * _up(per, 128) * 4)
        if grouped:
            passing += [b * h * sk * d * dt.size] * 2

        rm, bias = (mask.rg, b * h * s * _up(sk, 16) * dt.size) if mask is not None else (False, 0)

        def bw(g: Storage) -> Sequence[Storage | None]:
            dq = new(sizes[0], "efficient attention dq", qs, dt)
            dk = new(sizes[1], "efficient attention dk", ks, dt)
            dv_ = new(sizes[2], "efficient attention dv", vs, dt)
            dm = new(bias, "efficient attention dbias", (b, h, s, sk), dt) if rm else None
            t.passing(*passing, op="efficient attention backward workspace")
            return dq if rq else None, dk if rk else None, dv_ if rv else None, dm

        inputs = (q, k, v) if mask is None else (q, k, v, mask)
        out = self.apply("efficient attention", inputs, (b, h, s, dv), dt, bw, save=(q, k, v, mask))
        if out.rg:
            lse = t.tensor((b, h, _up(s, 32)), F32, "efficient logsumexp")
            seed = t.tensor((1,), I64, "philox seed")
            offset = t.tensor((1,), I64, "philox offset")
            t.save(out.node, "efficient attention", lse, seed, offset, out)
        return out

    def sdpa_math(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool, dropout: float, gqa: bool = True
    ) -> Tensor:
        """The math fallback: S x S matrices in memory, half inputs computed in fp32 (attention.cpp)."""
        b, h, s, d = q.shape
        sk = k.shape[2]
        origin = q.dt
        q, k, v = self.float(q), self.float(k), self.float(v)
        q = self.scale(q, "sdpa scale q")
        keep: Tensor | None = mask
        if causal and mask is None:
            allowed = self.ones((s, sk), BOOL, "sdpa causal mask (bool)")
            keep = self.ones((s, sk), q.dt, "sdpa causal mask")
            del allowed
        broadcast = k.shape[1] != h and not gqa
        if k.shape[1] != h and gqa:
            k = self.expand(k, (b, h, sk, d), "repeat_interleave")
            v = self.expand(v, (b, h, sk, v.shape[-1]), "repeat_interleave")
        k = self.scale(k, "sdpa scale k")
        if broadcast:
            k = self.repeat_kv(k, h)
        if b > 1:
            q = self.clone(q, "matmul reshape")
            k = self.clone(k, "matmul reshape")
        w = self.matmul(q, k, (b, h, s, sk), "sdpa scores")
        if keep is not None:
            w = self.add(w, keep)
        w = self._softmax_kernel(w, w.dt)
        w = self.dropout(w, dropout)
        # the function also returns the weights in the input's dtype, which nobody takes
        low = self.ones(w.shape, origin, "sdpa weights returned") if origin is not w.dt else None
        if broadcast:  # inside matmul, so that backward sums the heads at once
            v = self.repeat_kv(v, h)
            if b > 1:
                v = self.clone(v, "matmul reshape")
        out = self.to(self.matmul(w, v, (b, h, s, v.shape[-1]), "sdpa output"), origin)
        del low
        return out
