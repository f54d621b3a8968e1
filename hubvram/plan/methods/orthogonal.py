"""Orthogonal changes: OFT, BOFT, HRA.

Source: peft 0.21 ``tuners/{oft,boft,hra}/layer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.errors import SettingError
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan
from hubvram.timeline.dtypes import F32, I64, DType
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


def fitting(features: int, wanted: int) -> int:
    """The divisor of ``features`` nearest to ``wanted``, the smaller on a draw (``adjust_oft_parameters``)."""
    if wanted >= features:
        return features
    higher = wanted
    while higher <= features and features % higher:
        higher += 1
    lower = wanted
    while lower > 1 and features % lower:
        lower -= 1
    return lower if wanted - lower <= higher - wanted else higher


class OftPlan(TunerPlan):
    """Rotates blocks of each target's input."""

    peft_type = "OFT"
    kinds = ("Linear", "Conv2d")
    packed = ("4bit", "8bit", "gptq")

    def prepare(self) -> None:
        """``r`` blocks, or blocks of a size: exactly one of the two."""
        self.r, self.block = int(self.config["r"]), int(self.config["oft_block_size"])
        if "r" in self.ctx.peft and self.r and self.block == KEYS["OFT"]["oft_block_size"]:
            self.block = 0
        if (self.r == 0) == (self.block == 0):
            raise SettingError("OFT takes either r or oft_block_size; the other must be 0.")

    def blocks(self, module: Linear) -> tuple[int, int]:
        """(how many, of what size)."""
        features = module.in_features
        if self.r == 0:
            size = self.block if features % self.block == 0 and self.block <= features else 0
            size = size or fitting(features, self.block)
            return features // size, size
        r = self.r if features % self.r == 0 and self.r <= features else fitting(features, self.r)
        return r, features // r

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """The upper triangles of the blocks' generators."""
        r, size = self.blocks(module)
        if self.config["block_share"]:
            r = 1
        return (("oft_R", (r, size * (size - 1) // 2)),)

    def frozen(self, path: str, module: Linear) -> Sequence[tuple[str, Shape, DType]]:
        """Row and column indices of the triangle."""
        _, size = self.blocks(module)
        n = size * (size - 1) // 2
        return (("rows", (n,), I64), ("cols", (n,), I64))

    def run(self, path: str, module: Linear) -> Forward:
        """Rotate the input, then the base layer."""
        r, size = self.blocks(module)

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            src = x.dt
            rotation = self.rotation(g, params[0], params[0].shape[0], size)
            if params[0].shape[0] != r:
                rotation = g.repeat_batch(rotation, r)
            x = g.to(x, params[0].dt)
            whole = x.shape
            rows = prod(whole[:-1])
            turned = g.matmul(x.view(r, rows, size), rotation, (r, rows, size), "oft rotation")
            del rotation
            x = g.clone(turned.view(*whole), "oft reshape")
            del turned
            x = g.to(x, src)
            result = base(g, x)
            return g.to(result, src)

        return forward

    def rotation(self, g: Ops, vector: Tensor, blocks: int, size: int) -> Tensor:
        """Cayley transform: a Neumann series of num_cayley_neumann_terms terms, or a solve."""
        q = g.skew(vector, blocks, size)
        shape = (blocks, size, size)
        if not self.config["use_cayley_neumann"]:
            return g.cayley_solve(q)
        out = g.repeat_batch(g.eye(size, q.dt).view(1, size, size), blocks)
        terms = int(self.config["num_cayley_neumann_terms"])
        if terms > 1:
            out = g.add_scaled_into(out, q)
            if terms > 2:
                power = g.matmul(q, q, shape, "oft power")
                out = g.add_scaled_into(out, power)
                for _ in range(3, terms - 1):
                    power = g.matmul(power, q, shape, "oft power")
                    out = g.add_scaled_into(out, power)
                power = g.matmul(power, q, shape, "oft power")
                out = g.add_into(out, power)
        return out


class BoftPlan(TunerPlan):
    """Butterfly-factorised rotation of each target's input, and a scale of its output.

    Without PEFT's own CUDA extension, which is compiled on demand, one factor is used.
    """

    peft_type = "BOFT"
    kinds = ("Linear",)

    def prepare(self) -> None:
        """Block size or number: exactly one."""
        self.size, self.number = int(self.config["boft_block_size"]), int(self.config["boft_block_num"])
        if (self.size == 0) == (self.number == 0):
            raise SettingError("BOFT takes either boft_block_size or boft_block_num; the other must be 0.")
        for path, module in self.found:
            if module.in_features % (self.size or self.number):
                raise Skip(f"BOFT's blocks do not divide the {module.in_features} inputs of {path}.")

    def blocks(self, module: Linear) -> tuple[int, int]:
        """(how many, of what size)."""
        if self.size:
            return module.in_features // self.size, self.size
        return self.number, module.in_features // self.number

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """boft_R and boft_s."""
        number, size = self.blocks(module)
        return (("boft_R", (1, number, size, size)), ("boft_s", (module.out_features, 1)))

    def run(self, path: str, module: Linear) -> Forward:
        """Rotate, base layer, scale."""
        number, size = self.blocks(module)
        n, out = module.in_features, module.out_features

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            src = x.dt
            eye = g.eye(n, src)
            ones = g.constant((out, 1), src, "boft ones")
            q = g.cayley_solve(g.half_skew(params[0].view(number, size, size)))
            diagonal = g.block_diagonal(q, n)
            del q
            perm = g.constant((n, n), src, "boft permutation")  # kept on the CPU, copied over at each pass
            diagonal = g.to(diagonal, src)
            rotation = g.mm(diagonal, perm, "boft bmm")
            rotation = g.mm(perm, rotation, "boft bmm")
            turned = g.mm(rotation, eye, "boft rotation")
            scale = g.mul(params[1], ones)
            x = g.mm(x, turned, "boft rotate")
            result = base(g, x)
            if module.bias:
                result = g.sub(result, base.bias)
            result = g.mul(result, scale.view(out))
            if module.bias:
                result = g.add(result, base.bias)
            return g.to(result, src)

        return forward


class HraPlan(TunerPlan):
    """A chain of r Householder reflections on the weight's input side, multiplied out at every pass."""

    peft_type = "HRA"
    kinds = ("Linear", "Conv2d")

    def prepare(self) -> None:
        """Rank and whether the vectors are orthogonalised."""
        self.r = int(self.config["r"])
        self.gram = bool(self.config["apply_GS"])

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """u, in x r."""
        return (("hra_u", (module.in_features, self.r)),)

    def run(self, path: str, module: Linear) -> Forward:
        """The base layer itself is not run: its weight is multiplied."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``F.linear(x, W @ (eye @ H))``."""
        src = x.dt
        u = params[0]
        n = u.shape[0]
        outer = g.eye(n, F32)
        chain = self.orthogonalised(g, u, n) if self.gram else self.reflections(g, u, n)
        weight = g.mm(g.to(outer, chain.dt), chain, "hra weight")
        del chain, outer
        origin = g.to(base.weight.detach(), weight.dt)
        weight = g.mm(origin, weight, "hra weight")
        del origin
        bias = g.to(base.bias, weight.dt) if base.bias is not None else None
        x = g.to(x, weight.dt)
        result = g.linear(x, weight, bias, f"{base.name} (HRA)")
        del weight
        return g.to(result, src)

    def reflections(self, g: Ops, u: Tensor, n: int) -> Tensor:
        """``weight - 2 * weight @ ui @ ui.t()`` r times."""
        u = g.div(u, g.norm_of(u, (self.r,), "hra norm"))
        weight = g.eye(n, u.dt)
        for _ in range(self.r):
            ui = g.slice(u, (n, 1))
            double = g.scale(weight, "hra 2w")
            column = g.mm(double, ui, "hra column")
            del double
            step = g.mm(column, ui.view(1, n), "hra outer")
            del column, ui
            weight = g.sub(weight, step)
            del step
        return weight

    def orthogonalised(self, g: Ops, u: Tensor, n: int) -> Tensor:
        """Gram-Schmidt, then ``eye - 2 W W^T``."""
        columns: list[Tensor] = []
        for i in range(self.r):
            ui = g.slice(u, (n, 1))
            for j in range(i):
                dot = g.mm(columns[j].view(1, n), ui, "hra dot")
                ui = g.sub(ui, g.mul(dot, columns[j]))
            columns.append(g.div(ui, g.norm_of(ui, (), "hra norm")))
        whole = g.cat(columns, (n, self.r))
        columns.clear()
        double = g.scale(whole, "hra 2w")
        square = g.mm(double, whole.view(self.r, n), "hra square")
        return g.sub(g.eye(n, u.dt), square)


def _oft(ctx: Context) -> MethodPlan:
    return OftPlan(ctx)


def _boft(ctx: Context) -> MethodPlan:
    return BoftPlan(ctx)


def _hra(ctx: Context) -> MethodPlan:
    return HraPlan(ctx)


METHODS = [
    Method(
        name="oft",
        title="OFT",
        group="reparametrised",
        trains="a rotation per block of each target's input",
        formula="sum over targets of in / b * b * (b - 1) / 2, b = oft_block_size",
        source="peft 0.21 tuners/oft; arXiv:2306.07280, arXiv:2506.19847",
        apply=_oft,
        peft_type="OFT",
        keys={**KEYS["OFT"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="boft",
        title="BOFT",
        group="reparametrised",
        trains="a butterfly rotation of each target's input and a scale of its output",
        formula="sum over targets of in * b + out, b = boft_block_size",
        source="peft 0.21 tuners/boft; arXiv:2311.06243",
        apply=_boft,
        peft_type="BOFT",
        keys={**KEYS["BOFT"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="hra",
        title="HRA",
        group="reparametrised",
        trains="r Householder reflections per target",
        formula="sum over targets of in * r",
        source="peft 0.21 tuners/hra; arXiv:2405.17484",
        apply=_hra,
        peft_type="HRA",
        keys={**KEYS["HRA"], "autocast_adapter_dtype": True},
    ),
]
