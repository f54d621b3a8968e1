"""Methods whose layers share parameters: VB-LoRA, Uni-LoRA, TinyLoRA, Lily, FRoD.

Source: peft 0.21 ``tuners/{vblora,unilora,tinylora,lily,frod}/{layer,model}.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, NewParam, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.dtypes import F32, I64, DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class VbLoraPlan(TunerPlan):
    """A and B are put together from a bank of vectors that all layers share."""

    peft_type = "VBLORA"

    def prepare(self) -> None:
        """The bank."""
        c = self.config
        self.r, self.count, self.length, self.topk = (
            int(c["r"]),
            int(c["num_vectors"]),
            int(c["vector_length"]),
            int(c["topk"]),
        )
        for path, m in self.found:
            if m.in_features % self.length or m.out_features % self.length:
                raise Skip(
                    f"VB-LoRA needs sizes divisible by vector_length {self.length}; {path} is "
                    f"{m.out_features} x {m.in_features}."
                )
        self.extra_params = [NewParam("vblora_vector_bank", (self.count, self.length), self.dtype)]

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """Logits that choose vectors for A and for B."""
        return (
            ("vblora_logits_A", (self.r, module.in_features // self.length, self.count)),
            ("vblora_logits_B", (module.out_features // self.length, self.r, self.count)),
        )

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """The bank."""
        return ("vblora_vector_bank",)

    def matrix(self, g: Ops, logits: Tensor, bank: Tensor) -> Tensor:
        """``(softmax(topk) * bank[indices]).sum(-2)``."""
        lead = logits.shape[:-1]
        top = g.any_op("topk", (logits,), (*lead, self.topk), logits.dt)
        index = g.constant((*lead, self.topk), I64, "topk indices")
        if top.rg:
            g.t.save(top.node, "topk", index)
        weights = g.softmax(top, None)
        rows = g.any_op("bank rows", (bank,), (*lead, self.topk, self.length), bank.dt, save=(index,))
        both = g.mul(rows, weights)
        return g.sum_to(both, (*lead, self.length), "vblora sum")

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """LoRA with the matrices made on the spot."""
        logits_a, logits_b, bank = params
        src = x.dt
        result = base(g, x)
        a = self.matrix(g, logits_a, bank).view(self.r, x.shape[-1])
        b = g.clone(self.matrix(g, logits_b, bank), "vblora transpose").view(result.shape[-1], self.r)
        x = g.to(x, bank.dt)
        low = g.linear(g.dropout(x, float(self.config["vblora_dropout"])), a, None, "vblora A")
        change = g.linear(low, b, None, "vblora B")
        del low
        result = g.add(result, change)
        del change
        return g.to(result, src)


class UniLoraPlan(TunerPlan):
    """Every entry of every A and B is one of theta_d_length trained numbers, scaled."""

    peft_type = "UNILORA"

    def prepare(self) -> None:
        """The one vector."""
        self.r = int(self.config["r"])
        self.extra_params = [NewParam("unilora_theta_d", (int(self.config["theta_d_length"]),), self.dtype)]

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """Nothing of its own."""
        return ()

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Where each entry comes from, and its scale."""
        a, b = (self.r, module.in_features), (module.out_features, self.r)
        return (("indices_A", a, I64), ("indices_B", b, I64), ("scales_A", a, F32), ("scales_B", b, F32))

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """The vector."""
        return ("unilora_theta_d",)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """LoRA with gathered matrices."""
        ia, ib, sa, sb, theta = params
        src = x.dt
        result = base(g, x)
        a = g.mul(g.any_op("unilora gather", (theta,), ia.shape, theta.dt), sa)
        b = g.mul(g.any_op("unilora gather", (theta,), ib.shape, theta.dt), sb)
        x = g.to(x, theta.dt)
        low = g.linear(g.dropout(x, float(self.config["unilora_dropout"])), a, None, "unilora A")
        change = g.linear(low, b, None, "unilora B")
        del low
        result = g.add(result, change)
        return g.to(result, src)


class TinyLoraPlan(TunerPlan):
    """u numbers per target (or group of targets) between frozen singular vectors."""

    peft_type = "TINYLORA"

    def prepare(self) -> None:
        """How many targets share a vector (weight_tying)."""
        self.r, self.u = int(self.config["r"]), int(self.config["u"])
        self.tying = float(self.config["weight_tying"])
        self.groups: dict[str, int] = {}
        if self.tying > 0:
            paths = [path for path, _ in self.everywhere()]
            groups = max(1, round(len(paths) * (1.0 - self.tying)))
            size = max(1, len(paths) // groups)
            self.groups = {path: min(i // size, groups - 1) for i, path in enumerate(paths)}
            self.extra_params = [
                NewParam(f"tinylora_v.{i}", (self.u,), self.dtype) for i in sorted(set(self.groups.values()))
            ]

    def varies(self) -> bool:
        """Groups run across layers."""
        return bool(self.groups)

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """v, unless it is shared."""
        return () if self.groups else (("tinylora_v", (self.u,)),)

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """The group's v."""
        return (f"tinylora_v.{self.groups[path]}",) if self.groups else ()

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """A, B and the random tensor P."""
        r = min(self.r, module.in_features, module.out_features)
        return (
            ("A", (r, module.in_features), self.dtype),
            ("B", (module.out_features, r), self.dtype),
            ("P", (self.u, r, r), self.dtype),
        )

    def run(self, path: str, module: Linear) -> Forward:
        """v stands before or after the frozen ones."""
        last = bool(self.groups)

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            v = params[-1] if last else params[0]
            a, b, p = params[:3] if last else params[1:4]
            src = x.dt
            result = base(g, x)
            r = a.shape[0]
            core = g.any_op("tinylora R", (v,), (r, r), v.dt, save=(p,))
            x = g.to(g.dropout(x, float(self.config["tinylora_dropout"])), a.dt)
            h = g.linear(x, a, None, "tinylora A")
            h = g.linear(h, core, None, "tinylora R")
            delta = g.linear(h, b, None, "tinylora B")
            result = g.add(result, delta)
            return g.to(result, src)

        return forward


class LilyPlan(TunerPlan):
    """A is shared by neighbouring layers, the experts B by all layers of a kind; a router mixes the Bs."""

    peft_type = "LILY"
    kinds = ("Linear",)

    def prepare(self) -> None:
        """Shared matrices by target name and shape."""
        c = self.config
        self.r, self.stride, self.experts = int(c["r"]), int(c["stride_A"]), int(c["num_B"])
        names = c["target_modules"] or self.table.get(self.ctx.arch.model_type, ())
        self.suffixes: tuple[str, ...] = () if isinstance(names, str) else tuple(names)
        self.place: dict[str, tuple[str, str]] = {}
        extra: list[NewParam] = []
        seen: dict[tuple[str, int, int], int] = {}
        for path, m in self.everywhere():
            kind = (self._suffix(path), m.out_features, m.in_features)
            i = seen[kind] = seen.get(kind, -1) + 1
            word = f"{kind[0]}.{m.out_features}x{m.in_features}"
            b, a = f"lily_B.{word}", f"lily_A.{word}.{i // self.stride}"
            if i == 0:
                extra.append(NewParam(b, (self.experts * self.r, m.out_features), self.dtype))
            if self.stride > 1 and i % self.stride == 0:
                extra.append(NewParam(a, (self.r, m.in_features), self.dtype))
            self.place[path] = (a, b)
        self.extra_params = extra

    def _suffix(self, path: str) -> str:
        found = [s for s in self.suffixes if path.endswith(s)]
        return found[-1] if found else "all"

    def varies(self) -> bool:
        """Groups of ``stride_A`` layers."""
        return self.stride > 1

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """The router, and A where it is not shared."""
        router = ("lily_router", (self.experts, self.r))
        if self.stride > 1:
            return (router,)
        return (router, ("lily_A", (self.r, module.in_features)))

    def shared(self, path: str, module: Linear) -> tuple[str, ...]:
        """B, and A."""
        a, b = self.place[path]
        return (a, b) if self.stride > 1 else (b,)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """Route on A x, mix the Bs once for all tokens."""
        router, a, b = params
        result = base(g, x)
        src = result.dt
        n, out = self.experts, result.shape[-1]
        x = g.to(x, a.dt)
        hidden = g.linear(x, a, None, "lily A")
        logits = g.linear(hidden, router, None, "lily router")
        shares = g.sum_to(g.softmax(logits, None), (n,), "lily mean")
        mixed = g.any_op("lily mix", (shares, b), (self.r, out), b.dt, save=(shares, b))
        delta = g.mm(hidden, mixed, "lily B")
        del mixed
        return g.add(result, g.to(g.scale(delta, "lily scaling"), src))


class FrodPlan(TunerPlan):
    """``U (diag + sparse) V^T`` in the place of the weight: U per target, V per kind of target."""

    peft_type = "FROD"

    def prepare(self) -> None:
        """Trains in the base's dtype unless cast; V is shared."""
        self.rate = float(self.config["sparse_rate"])

    def entries(self, module: Linear) -> int:
        """Trained off-diagonal entries."""
        n = module.in_features
        some = min(int(n * n * self.rate), n * n - n)
        return max(1, some) if self.rate > 0 and n > 1 else some

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """The sparse entries and the diagonal."""
        return (("frod_lambda_s_values", (self.entries(module),)), ("frod_lambda_l", (module.in_features,)))

    def run(self, path: str, module: Linear) -> Forward:
        """The base layer does not run (without dropout); U, V and indices come from the CPU at each pass."""
        n, out = module.in_features, module.out_features
        nnz = self.entries(module)

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            values, diagonal = params
            src = x.dt
            u = g.constant((out, n), src, "frod U")
            v = g.constant((n, n), src, "frod V")
            index = g.constant((2, nnz), I64, "frod indices")
            low = g.to(values, src)
            sparse = g.any_op("coalesce", (low,), (nnz,), src, save=(index,))
            line = g.to(diagonal, src)
            z = g.linear(x, v, None, "frod V")
            dense = g.any_op("to_dense", (sparse,), (n, n), src, save=(index,))
            zs = g.linear(z, dense, None, "frod S")
            zl = g.mul(z, line)
            both = g.add(zs, zl)
            result = g.linear(both, u, None, "frod U")
            if base.bias is not None:
                result = g.add(result, base.bias)
            return g.to(result, src)

        return forward


def _plan(cls: type[TunerPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)

    return apply


def _method(name: str, title: str, trains: str, formula: str, source: str, cls: type[TunerPlan]) -> Method:
    return Method(
        name=name,
        title=title,
        group="reparametrised",
        trains=trains,
        formula=formula,
        source=f"peft 0.21 tuners/{source}",
        apply=_plan(cls),
        peft_type=cls.peft_type,
        keys={**KEYS[cls.peft_type], "autocast_adapter_dtype": True},
    )


METHODS = [
    _method(
        "vblora",
        "VB-LoRA",
        "one bank of vectors, and logits per target that choose from it",
        "num_vectors * vector_length + sum over targets of r * num_vectors * (in + out) / vector_length",
        "vblora; arXiv:2405.15179",
        VbLoraPlan,
    ),
    _method(
        "unilora",
        "Uni-LoRA",
        "one vector of theta_d_length numbers for all targets",
        "theta_d_length",
        "unilora; arXiv:2506.00799",
        UniLoraPlan,
    ),
    _method(
        "tinylora",
        "TinyLoRA",
        "u numbers per target",
        "u * targets (fewer under weight_tying)",
        "tinylora; arXiv:2602.04118",
        TinyLoraPlan,
    ),
    _method(
        "lily",
        "Lily",
        "As shared by stride_A layers, num_B Bs shared by all, and routers",
        "per kind of target: r * in * ceil(layers / stride_A) + num_B * r * out + layers * num_B * r",
        "lily; arXiv:2407.09946",
        LilyPlan,
    ),
    _method(
        "frod",
        "FRoD",
        "a diagonal and sparse_rate of the entries of an in x in matrix per target",
        "sum over targets of in + int(in * in * sparse_rate)",
        "frod",
        FrodPlan,
    ),
]
