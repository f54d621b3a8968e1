"""FourierFT, WaveFT and C3A: the change of the weight lives in a transformed domain.

Source: peft 0.21 ``tuners/{fourierft,waveft,c3a}/layer.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hubvram.architecture.modules import Linear
from hubvram.plan.methods.base import Context, Forward, Method, MethodPlan, Skip
from hubvram.plan.methods.peft_keys import KEYS
from hubvram.plan.methods.tuner import Shape, TunerPlan, pattern_value
from hubvram.timeline.dtypes import F32, I64
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import Param, Tensor


class FourierFtPlan(TunerPlan):
    """n_frequency coefficients of a 2-D spectrum per target."""

    peft_type = "FOURIERFT"
    patterns = ("n_frequency_pattern",)

    def count(self, path: str) -> int:
        """Coefficients of one target."""
        return int(pattern_value(self.config, "n_frequency_pattern", "n_frequency", path))

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """One vector."""
        return (("fourierft_spectrum", (self.count(path),)),)

    def run(self, path: str, module: Linear) -> Forward:
        """Needs the weight's shape."""
        shape = (module.out_features, module.in_features)
        count = self.count(path)

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            src = x.dt
            result = base(g, x)
            delta = g.spectrum_to_weight(params[0], shape, count)
            x = g.to(x, delta.dt)
            change = g.linear(x, delta, None, f"{base.name}.delta")
            result = g.add(result, change)
            del change
            return g.to(result, src)

        return forward


REDUCTIONS = {"db1": 0, "haar": 0}
"""Rows and columns that padding for a wavelet adds; Daubechies N adds 2 (N - 1)."""


def padding(family: str) -> int:
    """How much wider and taller the spectrum is than the weight."""
    if family in REDUCTIONS:
        return REDUCTIONS[family]
    if family[:2] in ("db", "sy") and family.lstrip("dbsym").isdigit():
        return 2 * (int(family.lstrip("dbsym")) - 1)
    return 2


class WaveFtPlan(TunerPlan):
    """n_frequency wavelet coefficients per target."""

    peft_type = "WAVEFT"
    patterns = ("n_frequency_pattern",)

    def prepare(self) -> None:
        """The sizes of all targets together."""
        if self.config["proportional_parameters"]:
            every = self.everywhere()
            self.targets = len(every)
            self.total = sum(m.in_features * m.out_features for _, m in every)

    def count(self, path: str, module: Linear) -> int:
        """Coefficients of one target; in proportion to its size under proportional_parameters."""
        if self.config["proportional_parameters"]:
            share = module.in_features * module.out_features / self.total
            return max(1, round(share * int(self.config["n_frequency"]) * self.targets))
        return int(pattern_value(self.config, "n_frequency_pattern", "n_frequency", path))

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """One vector."""
        return (("waveft_spectrum", (self.count(path, module),)),)

    def run(self, path: str, module: Linear) -> Forward:
        """Needs the weight's shape."""
        extra = padding(str(self.config["wavelet_family"]))
        tall, wide = module.out_features + extra, module.in_features + extra
        tall, wide = tall + tall % 2, wide + wide % 2
        n = self.count(path, module)
        shape = (module.out_features, module.in_features)

        def forward(g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
            src = x.dt
            result = base(g, x)
            delta = self.weight(g, params[0], n, (tall, wide), shape)
            x = g.to(x, delta.dt)
            change = g.linear(x, delta, None, f"{base.name}.delta")
            del delta
            result = g.add(result, change)
            del change
            return g.to(result, src)

        return forward

    def weight(self, g: Ops, spectrum: Tensor, n: int, padded: tuple[int, int], shape: tuple[int, int]) -> Tensor:
        """Scatter, inverse wavelet transform (one transposed convolution of four quarters), scale, cut."""
        if not self.config["use_idwt"]:
            index = g.constant((2, n), I64, "waveft indices")
            dense = g.any_op("waveft spectrum", (spectrum,), shape, spectrum.dt, save=(index,))
            return g.scale(dense, "waveft scaling")
        index = g.constant((2, n), I64, "waveft indices")
        moved = g.constant((2, n), I64, "waveft padded indices")
        valid = g.any_op("waveft valid", (spectrum,), (n,), spectrum.dt, save=(moved,))
        dense = g.any_op("waveft spectrum", (valid,), padded, spectrum.dt, save=(moved,))
        del index, moved, valid
        tall, wide = padded
        quarter = (tall // 2, wide // 2)
        parts = [g.slice(dense, quarter) for _ in range(4)]
        del dense
        stacked = g.cat(parts, padded)
        parts.clear()
        filt = g.constant((4, 2, 2), spectrum.dt, "waveft filter")
        made = g.any_op("waveft idwt", (stacked,), padded, spectrum.dt, save=(stacked, filt))
        del stacked
        made = g.scale(made, "waveft scaling")
        return made if padded == shape else g.slice(made, shape)


class C3aPlan(TunerPlan):
    """Circulant blocks, applied by fast Fourier transforms."""

    peft_type = "C3A"
    kinds = ("Linear",)
    patterns = ("block_size_pattern",)

    def block(self, path: str) -> int:
        """Side of one target's blocks."""
        return int(pattern_value(self.config, "block_size_pattern", "block_size", path))

    def check(self, path: str, module: Linear) -> None:
        """Blocks must fill the weight."""
        b = self.block(path)
        if module.in_features % b or module.out_features % b:
            raise Skip(
                f"C3A needs sizes divisible by block_size {b}; {path} is {module.out_features} x {module.in_features}."
            )

    def shapes(self, path: str, module: Linear) -> Sequence[tuple[str, Shape]]:
        """One row per block."""
        b = self.block(path)
        return (("c3a_kernel", (module.out_features // b, module.in_features // b, b)),)

    def run(self, path: str, module: Linear) -> Forward:
        """Same for all."""
        return self.forward

    def forward(self, g: Ops, base: Any, x: Tensor, params: Sequence[Param]) -> Tensor:
        """``base(x) + fft(ifft(x) * fft(w)).real / in``, always in fp32."""
        src = x.dt
        result = base(g, x)
        x = g.to(x, F32)
        change = g.circular(x, g.to(params[0], F32), result.shape)
        change = g.scale(change, "c3a / in")
        result = g.add_into(result, g.to(change, result.dt))
        return g.to(result, src)


def _plan(cls: type[TunerPlan]) -> Any:
    def apply(ctx: Context) -> MethodPlan:
        return cls(ctx)

    return apply


def _fourier(ctx: Context) -> MethodPlan:
    return FourierFtPlan(ctx)


METHODS = [
    Method(
        name="fourierft",
        title="FourierFT",
        group="reparametrised",
        trains="n_frequency coefficients of a 2-D spectrum per target",
        formula="targets * n_frequency",
        source="peft 0.21 tuners/fourierft; arXiv:2405.03003",
        apply=_fourier,
        peft_type="FOURIERFT",
        keys={**KEYS["FOURIERFT"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="waveft",
        title="WaveFT",
        group="reparametrised",
        trains="n_frequency wavelet coefficients per target",
        formula="targets * n_frequency",
        source="peft 0.21 tuners/waveft; arXiv:2505.12532",
        apply=_plan(WaveFtPlan),
        peft_type="WAVEFT",
        keys={**KEYS["WAVEFT"], "autocast_adapter_dtype": True},
    ),
    Method(
        name="c3a",
        title="C3A",
        group="reparametrised",
        trains="circulant blocks per target",
        formula="sum over targets of in * out / block_size",
        source="peft 0.21 tuners/c3a; arXiv:2407.19342",
        apply=_plan(C3aPlan),
        peft_type="C3A",
        keys={**KEYS["C3A"], "autocast_adapter_dtype": True},
    ),
]
