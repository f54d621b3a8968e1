"""The largest value of a setting whose total stays within a limit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Total = Callable[[int], "int | None"]
"""Bytes at a value of the setting; None where there is no such run."""


def largest(total: Total, limit: int, points: Sequence[int]) -> int | None:
    """The largest value from the first to the last of ``points`` that stays within ``limit``.

    Memory need not grow with the value: past a sliding window another
    attention kernel takes over, which may need less. So the points are looked
    at from above, and the gap over the first that fits is narrowed down. What
    comes back fits, and (unless it is the last point) one more does not.

    Args:
        total: bytes at a value; called a few times per point.
        limit: bytes.
        points: values in rising order; between two of them the total is taken to rise.
    """
    above: int | None = None
    for point in reversed(points):
        if _within(total(point), limit):
            return point if above is None else _narrow(total, limit, point, above)
        above = point
    return None


def rising(total: Total, limit: int, last: int) -> list[int]:
    """Points for `largest` where the total rises throughout: 1, 2, 4, ... up to the first that is too large."""
    points = [1]
    while points[-1] < last and _within(total(points[-1]), limit):
        points.append(min(2 * points[-1], last))
    return points


def powers(last: int, more: Iterable[int] = ()) -> list[int]:
    """Points for `largest`: the powers of two up to ``last``, ``last`` itself, and ``more`` within."""
    points = {1 << k for k in range(last.bit_length())} | {last}
    return sorted(points | {point for point in more if 1 <= point <= last})


def _within(value: int | None, limit: int) -> bool:
    return value is not None and value <= limit


def _narrow(total: Total, limit: int, low: int, high: int) -> int:
    """Between a value that fits and one that does not: a guess along the line, else (every other time) the middle."""
    halve = False
    while high - low > 1:
        at_low, at_high = total(low), total(high)
        middle = (low + high) // 2
        if not halve and at_low is not None and at_high is not None and at_high > at_low:
            middle = low + (limit - at_low) * (high - low) // (at_high - at_low)
            middle = min(max(middle, low + 1), high - 1)
        if _within(total(middle), limit):
            low = middle
        else:
            high = middle
        halve = not halve
    return low
