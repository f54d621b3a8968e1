"""The tracer: lifetimes, what is saved, checkpointing, repetition."""

from __future__ import annotations

import gc
from itertools import accumulate

import pytest

from hubvram.timeline.dtypes import BF16, F32
from hubvram.timeline.ops import Ops
from hubvram.timeline.tracer import GRADIENTS, Param, Tensor, Tracer


def level(t: Tracer) -> int:
    """Bytes alive now."""
    return sum(t.sizes[e] if e >= 0 else -t.sizes[~e] for e in t.log)


def peak(t: Tracer, since: int = 0) -> int:
    """Highest level after log position ``since``."""
    deltas = [t.sizes[e] if e >= 0 else -t.sizes[~e] for e in t.log]
    return max(list(accumulate(deltas))[since:])


def made(t: Tracer, *shape: int, grad: bool = False) -> Tensor:
    """An fp32 input; with ``grad`` a leaf whose gradient is wanted."""
    x = t.tensor(shape, F32, "input")
    return Tensor(x.st, x.shape, x.n, x.dt, True, t.node(lambda g: (), ())) if grad else x


def test_allocations_are_rounded_to_512_bytes_and_freed_with_their_last_reference() -> None:
    t = Tracer()
    x = t.tensor((3,), F32, "x")
    assert t.sizes == [512]
    assert level(t) == 512
    y = x.view(1, 3)
    del x
    assert level(t) == 512, "a view keeps the storage"
    del y
    assert level(t) == 0


def test_zero_bytes_allocate_nothing() -> None:
    t = Tracer()
    assert t.new(0, "nothing") is None
    assert t.log == []


def test_a_linear_layer_keeps_its_input_only_if_the_weight_is_trained() -> None:
    for trained, kept in ((True, 4 * 1024 * 64), (False, 0)):
        t = Tracer()
        g = Ops(t)
        w = Param("w", (32, 64), F32, trained)
        x = made(t, 1024, 64, grad=True)
        y = g.linear(x, w)
        del x
        assert level(t) == 4 * 1024 * 32 + kept
        del y
        assert level(t) == 0


def test_backward_leaves_the_gradient_of_a_trained_weight_and_nothing_else() -> None:
    t = Tracer()
    g = Ops(t)
    w = Param("w", (32, 64), F32, True)
    b = Param("b", (32,), F32, True)
    loss = g.linear(made(t, 128, 64), w, b)
    t.backward(loss)
    del loss
    assert w.grad is not None
    assert b.grad is not None
    assert level(t) == 4 * 32 * 64 + 512
    assert t.cats[w.grad.sid] == GRADIENTS


def test_a_weight_used_twice_sums_its_gradients_out_of_place() -> None:
    """A tied head: three matrices of the table's size at once (torch 2.13)."""
    t = Tracer()
    g = Ops(t)
    table = Param("table", (4096, 64), F32, True)
    size = 4 * 4096 * 64
    x = g.embedding(g.ids(1, 8), table)
    loss = g.linear(x, table)
    del x
    start = len(t.log)
    t.backward(loss)
    small = 64 * 1024
    assert 3 * size <= peak(t, start) < 3 * size + 4 * 4096 * 8 * 2 + small


def test_mul_keeps_each_factor_for_the_others_gradient() -> None:
    t = Tracer()
    g = Ops(t)
    a, b = made(t, 1024, grad=True), made(t, 1024)
    y = g.mul(a, b)
    del a
    assert level(t) == 2 * 4096, "a is not kept: b wants no gradient"
    del b
    assert level(t) == 2 * 4096, "b is kept for the gradient of a"
    del y
    assert level(t) == 0


def test_bf16_plus_fp32_is_fp32_and_the_gradient_is_cast_back() -> None:
    t = Tracer()
    g = Ops(t)
    a = Tensor(t.tensor((1024,), BF16, "a").st, (1024,), 1024, BF16, True, t.node(lambda _: (), ()))
    y = g.add(a, made(t, 1024, grad=True))
    assert y.dt is F32


def test_autocast_casts_a_trained_weight_once_and_drops_the_copy_with_the_region() -> None:
    t = Tracer()
    g = Ops(t)
    w = Param("w", (64, 64), F32, True)
    x = made(t, 256, 64)
    with t.autocasting(BF16):
        first = g.linear(x, w)
        second = g.linear(x, w)
        del first, second
        casts = [sid for sid, info in enumerate(t.info) if info[2] == (64, 64)]
        assert len(casts) == 1
    assert level(t) == 4 * 256 * 64


def test_a_frozen_weight_is_cast_at_every_call() -> None:
    t = Tracer()
    g = Ops(t)
    w = Param("w", (64, 64), F32, False)
    with t.autocasting(BF16):
        for _ in range(2):
            g.linear(made(t, 256, 64), w)
    assert len([1 for info in t.info if info[2] == (64, 64)]) == 2


def test_checkpointing_keeps_the_input_and_recomputes_in_backward() -> None:
    def layer(x: Tensor) -> Tensor:
        return g.silu(g.silu(g.silu(x)))

    size = 4 * 4096
    t = Tracer()
    g = Ops(t)
    x = made(t, 4096, grad=True)
    y = t.checkpoint(layer, x)
    del x
    assert level(t) == 2 * size, "the input and the output"
    start = len(t.log)
    t.backward(y)
    del y
    # early stop: the third silu's input is recomputed, its output is not
    recomputed = [t.info[e][0] for e in t.log[start:] if e >= 0 and t.info[e][0] == "silu"]
    assert recomputed == ["silu", "silu"]
    assert level(t) == 0


def test_without_checkpointing_every_input_is_kept() -> None:
    t = Tracer()
    g = Ops(t)
    y = g.silu(g.silu(g.silu(made(t, 4096, grad=True))))
    assert level(t) == 4 * 4 * 4096
    t.backward(y)


def test_no_grad_builds_no_graph() -> None:
    t = Tracer()
    g = Ops(t)
    with t.no_grad():
        y = g.silu(made(t, 4096, grad=True))
    assert y.node is None
    assert not y.rg


def test_nothing_forms_a_reference_cycle() -> None:
    """Lifetimes are reference counts: the cycle collector must find nothing of ours."""
    gc.collect()
    gc.disable()
    try:
        t = Tracer()
        g = Ops(t)
        w = Param("w", (64, 64), F32, True)
        x = made(t, 64, 64, grad=True)
        y = t.checkpoint(lambda x: g.rms_norm(g.linear(x, w), None), x)
        q = y.view(1, 1, 64, 64)
        z = g.attention(q, q, q, None)
        t.backward(z)
        del x, y, z, q
        w.grad = None
        assert level(t) == 0
    finally:
        gc.enable()


@pytest.mark.parametrize("shape", [(2, -1), (-1, 4), (8, 1)])
def test_view_fills_in_a_missing_side(shape: tuple[int, ...]) -> None:
    x = Tracer().tensor((8,), F32, "x")
    assert x.view(*shape).n == 8
    assert -1 not in x.view(*shape).shape


def test_no_op_is_defined_twice() -> None:
    """`Ops` is put together from mixins: one must not hide another's op."""
    where: dict[str, str] = {}
    for cls in Ops.__mro__[:-1]:
        for name in vars(cls):
            if not name.startswith("__"):
                assert name not in where, f"{name} is in {where.get(name)} and {cls.__name__}"
                where[name] = cls.__name__
