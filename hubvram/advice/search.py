"""The largest value of a setting whose total stays within a limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def rising(total: Total, limit: int, last: int, first: int = 1) -> list[int]:
    """Points for `largest` where the total rises: ``first``, twice that, ... up to the first that is too large.

    A value without a run (fewer tokens than an image takes) is passed by.
    """
    points = [first]
    while points[-1] < last:
        value = total(points[-1])
        if value is not None and value > limit:
            break
        points.append(min(2 * points[-1], last))
    return points


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
