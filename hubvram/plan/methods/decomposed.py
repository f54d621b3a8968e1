"""Methods that begin with a decomposition of the weight, or multiply into it: PSOFT, OSF, AdaMSS, DEFT, HiRA.

Source: peft 0.21 ``tuners/{psoft,osf,adamss,deft,hira}/layer.py``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan, pattern_value
from hubvram.timeline.dtypes import F32, I64, DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class PsoftPlan(TunerPlan):
    """A rotation between the two factors of the weight's principal part."""

    peft_type = "PSOFT"
    kinds = ("Linear",)

    def prepare(self) -> None:
        """Flags."""
        self.r = int(self.config["r"])
        self.orth = bool(self.config["psoft_orth"])
        self.dropout = float(self.config["psoft_dropout"])

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """The rotation's generator (or the whole matrix) and two magnitudes."""
        r = self.r
        out: list[tuple[str, Shape]] = [("psoft_R", (r * (r - 1) // 2,) if self.orth else (r, r))]
        if self.config["psoft_mag_b"]:
            out.append(("vector_b", (r,)))
        if self.config["psoft_mag_a"]:
            out.append(("vector_a", (r,)))
        return out

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Both factors in fp32. A is a view into all right singular vectors, which stay with it."""
        r = self.r
        wide = module.in_features
        whole = self.config["psoft_svd"] == "full" and self.config["ab_svd_init"] == "psoft_init"
        rows = min(wide, module.out_features) if whole else r
        out: list[tuple[str, Shape, DType]] = [("A", (rows, wide), F32), ("B", (module.out_features, r), F32)]
        if self.orth:
            n = r * (r - 1) // 2
            out += [("rows", (n,), I64), ("cols", (n,), I64)]
        return out

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all but for the sizes."""
        r, wide, tall = self.r, module.in_features, module.out_features
        trained = len(self.shapes(path, module))

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            a, b = params[trained], params[trained + 1]
            result = base(g, x)
            src = result.dt
            x = g.dropout(g.to(x, F32), self.dropout)
            low = g.linear(x, a.narrow(r, wide), None, "psoft A")
            turned = g.linear(low, self.rotation(g, params[:trained]), None, "psoft R")
            diff = g.sub(turned, low)
            del turned, low
            delta = g.scale(g.linear(diff, b.narrow(tall, r), None, "psoft B"), "psoft scaling")
            del diff
            result = g.add(result, delta)
            return g.to(result, src)

        return forward

    def rotation(self, g: Ops, params: Sequence[Param]) -> Tensor:
        """Cayley transform of the generator, times the magnitudes."""
        r = self.r
        matrix: Tensor = params[0]
        if self.orth:
            q = g.skew(params[0], 1, r).view(r, r)
            if self.config["use_cayley_neumann"]:
                matrix = g.clone(g.eye(r, q.dt))
                matrix = g.add_scaled_into(matrix, q)
                power = q
                for _ in range(2, int(self.config["num_cayley_neumann_terms"])):
                    power = g.mm(power, q, "psoft power")
                    matrix = g.add_scaled_into(matrix, power)
            else:
                matrix = g.cayley_solve(q)
        for vector in params[1:]:
            matrix = g.mul(vector, matrix)
        return matrix


class OsfPlan(TunerPlan):
    """The lower half of each weight's singular triplets is trained; the upper half is kept apart."""

    peft_type = "OSF"
    kinds = ("Linear",)

    def low(self, path: str, module: Linear) -> int:
        """How many triplets are trained."""
        small = min(module.in_features, module.out_features)
        given = self.config["effective_rank"]
        for pattern, rank in (self.config["rank_pattern"] or {}).items():
            if re.search(pattern, path):
                given = rank
                break
        if given is None:
            return small - small // 2
        high = int(small * given) if isinstance(given, float) and 0 < given <= 1 else int(given)
        return small - max(0, min(small, high))

    def takes(self, path: str, module: Linear, layer: int | None) -> bool:
        """Other layers than nn.Linear are passed over."""
        return module.kind == "Linear" and super().takes(path, module, layer)

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """U, S and V of the lower part."""
        k = self.low(path, module)
        return (("U_low", (module.out_features, k)), ("S_low", (k,)), ("V_low", (k, module.in_features)))

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Their first values, and the upper U or V where the weight is not square."""
        k = self.low(path, module)
        out, wide = module.out_features, module.in_features
        high = min(out, wide) - k
        more: list[tuple[str, Shape, DType]] = [
            ("U_low_init", (out, k), self.dtype),
            ("S_low_init", (k,), self.dtype),
            ("V_low_init", (k, wide), self.dtype),
        ]
        if out > wide:
            more.append(("U_high", (out, high), self.dtype))
        if out < wide:
            more.append(("V_high", (high, wide), self.dtype))
        return more

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + A (B x)`` with A = [U S, -U0 S0], B = [V; V0]."""
        u, s, v, u0, s0, v0 = params[:6]
        src = x.dt
        result = base(g, x)
        k2 = 2 * s.n
        a = g.cat((g.mul(u, s), g.scale(g.mul(u0, s0), "neg")), (u.shape[0], k2))
        b = g.cat((v, v0), (k2, v.shape[1]))
        x = g.to(x, a.dt)
        h = g.linear(x, b, None, "osf B")
        del b
        delta = g.linear(h, a, None, "osf A")
        del a, h
        return g.add(result, g.to(delta, src))


class AdamssPlan(TunerPlan):
    """Rows of the weight are clustered; each cluster gets a small pair. Counts assume num_subspaces clusters."""

    peft_type = "ADAMSS"
    kinds = ("Linear",)

    def prepare(self) -> None:
        """Sizes that the clustering does not decide."""
        self.r = int(self.config["r"])
        self.spaces = int(self.config["num_subspaces"])
        self.rank = int(self.config["subspace_rank"])
        self.dtype = self.ctx.base_dtype

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A_i (rank x r) and B_i (rows of the cluster x rank); the rows add up to out_features."""
        r = min(self.r, module.in_features + module.bias, module.out_features)
        rest = module.out_features - (self.spaces - 1) * (module.out_features // self.spaces)
        rows = [module.out_features // self.spaces] * (self.spaces - 1) + [rest]
        return [("adamss_A", (self.rank, r))] * self.spaces + [("adamss_B", (n, self.rank)) for n in rows]

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """The principal directions of the rows."""
        return (("newB", (min(self.r, module.out_features), module.in_features + module.bias), self.ctx.adapter_dtype),)

    def run(self, path: str, module: Linear) -> Forward:
        """Project once, a pair per cluster, scatter."""
        n = self.spaces

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            src = x.dt
            x = g.to(x, self.ctx.base_dtype)
            wide = x
            if module.bias:
                ones = g.constant((*x.shape[:-1], 1), x.dt, "ones")
                wide = g.cat((x, ones), (*x.shape[:-1], x.shape[-1] + 1))
            result = base(g, x)
            projected = g.linear(wide, g.to(params[2 * n], x.dt), None, "adamss project")
            parts = []
            for i in range(n):
                a, b = params[i], params[n + i]
                low = g.linear(projected, g.to(a, x.dt), None, "adamss A")
                parts.append(g.linear(low, g.to(b, x.dt), None, "adamss B"))
                del low
            delta = g.cat(parts, result.shape)
            parts.clear()
            index = g.constant((result.shape[-1],), I64, "adamss rows")
            spread = g.any_op("scatter", (delta,), result.shape, delta.dt, save=(index,))
            del delta, index
            result = g.add(result, spread)
            return g.to(result, src)

        return forward


class DeftPlan(TunerPlan):
    """Removes the part of the output that lies along P, and puts R x in its place."""

    peft_type = "DEFT"

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """P (out x r) and, unless ``para``, R (r x in)."""
        r = min(int(self.config["r"]), module.out_features)
        out: list[tuple[str, Shape]] = [("deft_P", (module.out_features, r))]
        if not self.config["para"]:
            out.append(("deft_R", (r, module.in_features)))
        return out

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``y - (y @ right) @ Q^T + (R x) @ Q^T`` in fp32."""
        src = x.dt
        out = g.to(base(g, x), F32)
        product = out if base.bias is None else g.sub(out, g.to(base.bias, F32))
        x = g.to(x, F32)
        q: Tensor = g.to(params[0], F32)
        if str(self.config["decomposition_method"]) == "qr":
            q = g.any_op("qr", (q,), q.shape, F32, save_result=True)
            right = q
        else:
            right = g.relu(q)
        turned = q.view(q.shape[1], q.shape[0])
        correction = g.mm(g.mm(product, right, "deft project"), turned, "deft correction")
        out = g.sub(out, correction)
        del correction
        if len(params) > 1:
            r = g.scale(g.to(params[1], F32), "deft scaling")
            x = g.dropout(x, float(self.config["deft_dropout"]))
            out = g.add(out, g.mm(g.linear(x, r, None, "deft R"), turned, "deft P"))
        return g.to(out, src)


class HiraPlan(TunerPlan):
    """The weight times a low-rank product, element by element."""

    peft_type = "HIRA"
    packed = ("4bit", "8bit")

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """A (r x in) and B (out x r)."""
        r = int(pattern_value(self.config, "rank_pattern", "r", path))
        return (("hira_A", (r, module.in_features)), ("hira_B", (module.out_features, r)))

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + F.linear(x, W * (B A))``."""
        a, b = params
        result = base(g, x)
        src = result.dt
        product = g.mm(a.view(a.shape[1], a.shape[0]), b.view(b.shape[1], b.shape[0]), "hira A B")
        x = g.to(x, a.dt)
        dropped = g.dropout(x, float(self.config["hira_dropout"]))
        shape = (b.shape[0], a.shape[1])
        weight = g.mul(g.base_weight(base).view(*shape), product.view(*shape))
        change = g.linear(dropped, weight, None, "hira")
        del weight
        result = g.add(result, change)
        del change, product
        return g.to(result, src)


def _plan(cls: type[TunerPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)

    return apply


def _method(name: str, title: str, trains: str, formula: str, source: str, cls: type[TunerPlan], **more: Any) -> Method:
    peft_type = cls.peft_type
    return Method(
        name=name,
        title=title,
        group="reparametrised",
        trains=trains,
        formula=formula,
        source=f"peft 0.21 tuners/{source}",
        apply=_plan(cls),
        peft_type=peft_type,
        keys={**KEYS[peft_type], **more, "autocast_adapter_dtype": True},
    )


METHODS = [
    _method(
        "psoft",
        "PSOFT",
        "a rotation inside the weight's principal subspace",
        "targets * (r * (r - 1) / 2 + 2r)",
        "psoft; arXiv:2505.11235",
        PsoftPlan,
    ),
    _method(
        "osf",
        "OSF",
        "the lower half of each weight's singular vectors and values",
        "sum over targets of k * (in + out + 1), k = min(in, out) - effective_rank",
        "osf; arXiv:2504.07097",
        OsfPlan,
    ),
    _method(
        "adamss",
        "AdaMSS",
        "a small pair per cluster of the weight's rows",
        "sum over targets of (num_subspaces * r + out) * subspace_rank",
        "adamss",
        AdamssPlan,
    ),
    _method(
        "deft",
        "DEFT",
        "directions P to remove from the output, and R to put back",
        "sum over targets of r * (in + out)",
        "deft",
        DeftPlan,
        lora_alpha=None,
    ),
    _method(
        "hira",
        "HiRA",
        "a low-rank pair that multiplies the weight element by element",
        "sum over targets of r * (in + out)",
        "hira; ICLR 2025",
        HiraPlan,
    ),
]
