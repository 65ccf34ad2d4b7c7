"""Capabilities by name and as bit masks; and what a process does to end up with exactly those."""

from __future__ import annotations

from collections.abc import Iterable

from runtime.errors import InvalidSpec
from runtime.init.values import CapabilityMasks
from runtime.linux import process
from runtime.linux.process import Prctl, capset, prctl
from runtime.spec import Capabilities

# linux/capability.h, in the order of their numbers.
NAMES: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
)
_BITS = {name: 1 << number for number, name in enumerate(NAMES)}
SYS_ADMIN = _BITS["CAP_SYS_ADMIN"]

_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4


def masks(capabilities: Capabilities) -> CapabilityMasks:
    """The five sets as bit masks. Pure. Raises InvalidSpec for an unknown name."""
    return CapabilityMasks(
        bounding=_mask(capabilities.bounding, "bounding"),
        effective=_mask(capabilities.effective, "effective"),
        permitted=_mask(capabilities.permitted, "permitted"),
        inheritable=_mask(capabilities.inheritable, "inheritable"),
        ambient=_mask(capabilities.ambient, "ambient"),
    )


def names(mask: int) -> list[str]:
    """The names of the capabilities in a mask."""
    return [name for name, bit in _BITS.items() if mask & bit]


def _mask(wanted: Iterable[str], kind: str) -> int:
    mask = 0
    for name in wanted:
        bit = _BITS.get(name)
        if bit is None:
            raise InvalidSpec(
                f"process.capabilities.{kind}", f'"{name}" is no capability that Linux knows'
            )
        mask |= bit
    return mask


def held() -> CapabilityMasks:
    """This process's own sets, from /proc. Once a process: they only shrink where we say so."""
    sets: dict[bytes, int] = {}
    with open("/proc/self/status", "rb") as status:
        for line in status:
            key, _, value = line.partition(b":")
            if key.startswith(b"Cap"):
                sets[key] = int(value, 16)
    return CapabilityMasks(
        bounding=sets[b"CapBnd"],
        effective=sets[b"CapEff"],
        permitted=sets[b"CapPrm"],
        inheritable=sets[b"CapInh"],
        ambient=sets[b"CapAmb"],
    )


def full() -> CapabilityMasks:
    """What a process has that has just joined another user namespace: see user_namespaces(7)."""
    with open("/proc/sys/kernel/cap_last_cap", "rb") as file:
        every = (1 << int(file.read()) + 1) - 1
    return CapabilityMasks(bounding=every, effective=every, permitted=every)


def attainable(wanted: CapabilityMasks, ours: CapabilityMasks) -> CapabilityMasks:
    """What of `wanted` a process with `ours` can hand on: nobody can give what he hasn't. Pure."""
    permitted = wanted.permitted & ours.permitted
    inheritable = wanted.inheritable & (ours.permitted | ours.inheritable)
    return CapabilityMasks(
        bounding=wanted.bounding & ours.bounding,
        effective=wanted.effective & permitted,
        permitted=permitted,
        inheritable=inheritable,
        ambient=wanted.ambient & permitted & inheritable,
    )


def drop_bounding(keep: int, ours: CapabilityMasks) -> None:
    """Shrinks the bounding set to `keep`. Needs CAP_SETPCAP: before the others are given up."""
    surplus = ours.bounding & ~keep
    if surplus:
        numbers = range(surplus.bit_length())
        process.drop_bounding([number for number in numbers if surplus >> number & 1])


def apply(final: CapabilityMasks, *, extra: int = 0) -> None:
    """Sets effective, permitted, inheritable and ambient.

    extra: effective and permitted for a little longer (CAP_SYS_ADMIN, to install a filter).
    """
    capset(final.effective | extra, final.permitted | extra, final.inheritable)
    prctl(Prctl.CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
    ambient, number = final.ambient, 0
    while ambient:
        if ambient & 1:
            prctl(Prctl.CAP_AMBIENT, _AMBIENT_RAISE, number)
        ambient >>= 1
        number += 1
