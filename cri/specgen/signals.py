"""Signals by name: CRI's enum, an image's StopSignal, and the kernel's numbers."""

from __future__ import annotations

import signal
from typing import cast

from cri.api import api_pb2 as api

RTMIN, RTMAX = 34, 64  # as glibc and musl leave them to programs

_NUMBERS = {name: int(item) for name, item in signal.Signals.__members__.items()}
_NUMBERS |= {"SIGRTMIN": RTMIN, "SIGRTMAX": RTMAX}
_NUMBERS |= {f"SIGRTMIN+{n}": RTMIN + n for n in range(1, 16)}
_NUMBERS |= {f"SIGRTMAX-{n}": RTMAX - n for n in range(1, 15)}


def number(name: str) -> int | None:
    """From SIGTERM, TERM, term, 15 or SIGRTMIN+3; None: there is no such signal."""
    if name.isascii() and name.isdigit():
        return int(name) if 1 <= int(name) <= RTMAX else None
    upper = name.upper()
    return _NUMBERS.get(upper if upper.startswith("SIG") else f"SIG{upper}")


def from_api(value: int) -> str:
    """CRI's SIGNAL_SIGRTMINPLUS3 as SIGRTMIN+3; "" for what leaves it to the image."""
    if value == api.SIGNAL_RUNTIME_DEFAULT:
        return ""
    name = api.Signal.Name(cast("api.Signal", value)).removeprefix("SIGNAL_")
    return name.replace("PLUS", "+").replace("MINUS", "-")


def to_api(name: str) -> api.Signal:
    """The other way round, for ContainerStatus; SIGNAL_RUNTIME_DEFAULT for what CRI can't say."""
    wanted = number(name)
    return _API.get(wanted, api.SIGNAL_RUNTIME_DEFAULT) if wanted else api.SIGNAL_RUNTIME_DEFAULT


def _by_number() -> dict[int, api.Signal]:
    found: dict[int, api.Signal] = {}
    for value in api.Signal.values():
        known = number(from_api(value)) if value else None
        if known is not None:
            found.setdefault(known, cast("api.Signal", value))
    return found


_API = _by_number()
