"""What a system call is called and numbered on each architecture that a machine's kernel runs.

Numbers come from libseccomp's tables, those of the newest calls from our own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runtime.errors import InvalidSpec
from runtime.linux.libseccomp import system_call
from runtime.seccomp import default

X32_BIT = 0x40000000
SKIPPED = 0xFFFFFFFF  # the number that a tracer sets to have a call skipped


@dataclass(frozen=True, slots=True)
class Architecture:
    """name: as profiles write it; token: libseccomp's; audit: what a filter reads from the kernel
    (x32 shares x86-64's, and is told by a bit in the number); wide: arguments of 64 bits;
    first, end: the range of its numbers, those of private calls excepted.
    """

    name: str
    token: int
    audit: int
    wide: bool
    first: int = 0
    end: int = SKIPPED


X86_64 = Architecture("SCMP_ARCH_X86_64", 0xC000003E, 0xC000003E, wide=True, end=X32_BIT)
X32 = Architecture("SCMP_ARCH_X32", 0x4000003E, 0xC000003E, wide=False, first=X32_BIT)
X86 = Architecture("SCMP_ARCH_X86", 0x40000003, 0x40000003, wide=False)
AARCH64 = Architecture("SCMP_ARCH_AARCH64", 0xC00000B7, 0xC00000B7, wide=True)
ARM = Architecture("SCMP_ARCH_ARM", 0x40000028, 0x40000028, wide=False, end=0xF0000)
RISCV64 = Architecture("SCMP_ARCH_RISCV64", 0xC00000F3, 0xC00000F3, wide=True)

# Machine (as uname -m says) -> its own architecture, then others whose programs its kernel runs.
MACHINES: Mapping[str, tuple[Architecture, ...]] = {
    "x86_64": (X86_64, X86, X32),
    "aarch64": (AARCH64, ARM),
    "riscv64": (RISCV64,),
}
# What a profile may list. Programs of a foreign one can't run here: there is nothing to filter.
_KNOWN = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        *("X86", "X86_64", "X32", "ARM", "AARCH64", "RISCV64", "LOONGARCH64", "M68K", "SH", "SHEB"),
        *("MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "PARISC", "PARISC64"),
        *("PPC", "PPC64", "PPC64LE", "S390", "S390X", "NATIVE"),
    )
)


def native_architectures() -> tuple[Architecture, ...]:
    """Those of this machine, its own first. Raises InvalidSpec on a machine we don't know."""
    machine = os.uname().machine
    if machine not in MACHINES:
        raise InvalidSpec(
            "linux.seccomp",
            f"there are no filters for {machine}, only for {', '.join(MACHINES)}: "
            "run the container unconfined",
        )
    return MACHINES[machine]


def chosen(names: tuple[str, ...]) -> tuple[Architecture, ...]:
    """Those of this machine that a profile lists; its own always. Raises InvalidSpec."""
    own, *others = native_architectures()
    for name in names:
        if name not in _KNOWN:
            raise InvalidSpec("linux.seccomp.architectures", f"{name!r} is unknown")
    return (own, *(other for other in others if other.name in names))


@dataclass(frozen=True, slots=True)
class Call:
    """One way to make a call. selector: (mask, value) of the first argument of an old call that
    stood for many (socketcall, ipc), whose own arguments a filter can't see; None: directly.
    """

    number: int
    selector: tuple[int, int] | None = None


# Sockets and System V IPC on x86: libseccomp answers -100 and -200 less the place in the old call.
_SOCKETCALL, _IPC = 102, 117
_DIRECT_SOCKETS = (
    "socket socketpair bind connect listen accept4 getsockopt setsockopt getsockname getpeername "
    "sendto sendmsg recvfrom recvmsg shutdown"
)
_DIRECT_IPC = "semget semctl shmget shmctl shmat shmdt msgget msgsnd msgrcv msgctl"
_DIRECT_ON_X86: Mapping[str, int] = {
    "recvmmsg": 337,
    "sendmmsg": 345,
    **{name: number for number, name in enumerate(_DIRECT_SOCKETS.split(), 359)},
    **{name: number for number, name in enumerate(_DIRECT_IPC.split(), 393)},
}


def calls(name: str, architecture: Architecture) -> Iterator[Call]:
    """Every way to make the call `name`; none where the architecture hasn't got it."""
    number = system_call(name, architecture.token)
    if number is None:
        number = _new_number(name, architecture)
    if number >= 0:
        yield Call(number)
    elif architecture is X86:
        if name in _DIRECT_ON_X86:
            yield Call(_DIRECT_ON_X86[name])
        if -120 <= number <= -101:
            yield Call(_SOCKETCALL, (0xFFFFFFFF, -number - 100))
        elif -224 <= number <= -201:
            yield Call(_IPC, (0xFFFF, -number - 200))  # above: a version


def _new_number(name: str, architecture: Architecture) -> int:
    number = default.NEW_NUMBERS.get(name, -1)
    if number < 0 and architecture in (X86_64, X32):
        number = default.NEW_NUMBERS_X86_64.get(name, -1)
    return number | architecture.first if number >= 0 else number
