"""Kubernetes quantities ("500m", "64Mi", "1e3") as whole numbers."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

SUFFIXES = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


def parse(text: str) -> Decimal:
    """The number that a quantity stands for. ValueError says what is wrong with it."""
    found = re.fullmatch(r"([+-]?\d*\.?\d+|[+-]?\d+\.)(?:[eE]([+-]?\d{1,3})|([a-zA-Z]{0,2}))", text)
    if found is None or (found[3] or "") not in SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity such as 500m, 64Mi or 2")
    number = Decimal(found[1]) * Decimal(10) ** int(found[2] or 0)
    return number * SUFFIXES[found[3] or ""]


def whole(text: str) -> int:
    """The quantity in units (bytes, say), rounded up."""
    return int(parse(text).to_integral_value(ROUND_CEILING))


def milli(text: str) -> int:
    """The quantity in thousandths (of a CPU, say), rounded up."""
    return int((parse(text) * 1000).to_integral_value(ROUND_CEILING))
