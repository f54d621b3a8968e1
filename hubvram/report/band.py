"""How far measured totals lie from the estimate: the band that holds 90 % of them.

Allocated memory follows from the code; what the allocator reserves beside it,
and what the driver shows, also depends on the order of requests, on varying
lengths and on the card. The band says how much.

Source: the measured rows of quality A on one GPU (reserved or nvidia-smi,
T4, L40S, V100 and A100) of ``docs/accuracy.md``; 5th and 95th percentile of
measured over estimated. A test holds the figures against those rows.
"""

from __future__ import annotations

LOW = 0.95
"""Of the estimated total: 5 % of the measured rows are lower."""
HIGH = 1.20
"""Of the estimated total: 5 % of the measured rows are higher."""


def band(total_bytes: int) -> tuple[int, int]:
    """Low and high end around an estimated total, in bytes."""
    return int(total_bytes * LOW), int(total_bytes * HIGH)
