"""Seccomp profiles as values: RuntimeDefault for a set of capabilities, and files of users.

A file is the `seccomp` object of the OCI specification; what Docker's format adds to it (archMap,
includes and excludes by capability, machine and kernel) is understood too.
https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#seccomp
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.codec import decode
from runtime.errors import InvalidSpec
from runtime.seccomp import default
from runtime.seccomp.machine import MACHINES
from runtime.spec import Seccomp, SeccompArgument, SeccompSyscalls

ALLOW, ERRNO = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
MAX_BYTES = 1024 * 1024  # of a file; real ones have some 30 KB


def default_profile(capabilities: Iterable[str]) -> Seccomp:
    """RuntimeDefault for a container whose bounding set is `capabilities` (names with CAP_).

    The same set gives the same object, so that the compiler's cache finds it quickly.
    """
    return _default_profile(frozenset(capabilities) & _DECISIVE, os.uname().machine)


_DECISIVE = frozenset(default.BY_CAPABILITY)


@functools.cache  # as many as there are subsets in use: a handful
def _default_profile(capabilities: frozenset[str], machine: str) -> Seccomp:
    names = [
        name
        for group in (
            default.FILES,
            default.DESCRIPTORS,
            default.SOCKETS,
            default.PROCESSES,
            default.MEMORY,
            default.SYNCHRONISATION,
            default.TIME_AND_SYSTEM,
            default.BY_MACHINE.get(machine, ""),
            *(default.BY_CAPABILITY[name] for name in sorted(capabilities)),
        )
        for name in group.split()
    ]
    rules = [SeccompSyscalls(tuple(sorted(set(names))), ALLOW), *_sockets(), *_personalities()]
    if "CAP_SYS_ADMIN" not in capabilities:
        flags_index = 1 if machine == "s390x" else 0
        no_namespaces = SeccompArgument(
            flags_index, default.NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ", 0
        )
        rules.append(SeccompSyscalls(("clone",), ALLOW, args=(no_namespaces,)))
        rules.append(SeccompSyscalls(("clone3",), ERRNO, errno_ret=default.ENOSYS))
    return Seccomp(
        default_action=ERRNO,
        default_errno_ret=default.EPERM,
        architectures=_architectures(machine),
        syscalls=tuple(rules),
    )


def _architectures(machine: str) -> tuple[str, ...]:
    return tuple(architecture.name for architecture in MACHINES.get(machine, ()))


def _sockets() -> list[SeccompSyscalls]:
    """Every family but AF_ALG and AF_VSOCK, as ranges: rules are alternatives, so that "not 38"
    beside "not 40" would allow everything.

    The kernel reads the family as 32 bits, a filter compares 64. So the upper range needs its
    end: without it, AF_VSOCK + 2**32 would be above 40 for the filter and AF_VSOCK for the kernel.
    """
    ranges = (
        (SeccompArgument(0, default.AF_ALG, "SCMP_CMP_LT"),),
        (SeccompArgument(0, default.AF_ALG + 1, "SCMP_CMP_EQ"),),
        (
            SeccompArgument(0, default.AF_VSOCK, "SCMP_CMP_GT"),
            SeccompArgument(0, 0xFFFFFFFF, "SCMP_CMP_LE"),
        ),
    )
    return [SeccompSyscalls(("socket",), ALLOW, args=families) for families in ranges]


def _personalities() -> list[SeccompSyscalls]:
    return [
        SeccompSyscalls(("personality",), ALLOW, args=(SeccompArgument(0, value, "SCMP_CMP_EQ"),))
        for value in default.PERSONALITIES
    ]


# --- files ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Condition:
    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: str = ""


@dataclass(frozen=True, slots=True)
class _Rule:
    action: str
    names: tuple[str, ...] = ()
    name: str = ""
    errno_ret: int | None = None
    args: tuple[SeccompArgument, ...] = ()
    includes: _Condition = _Condition()
    excludes: _Condition = _Condition()


@dataclass(frozen=True, slots=True)
class _Architecture:
    architecture: str
    sub_architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _File:
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    arch_map: tuple[_Architecture, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[_Rule, ...] = ()


def load(path: str | os.PathLike[str], capabilities: Iterable[str] = ()) -> Seccomp:
    """The profile in a file (CRI: Localhost), for a container with this bounding set.

    Raises InvalidSpec naming the file and, inside it, the field.
    """
    where = os.fspath(path)
    try:
        # O_NONBLOCK: a FIFO in the profile's place must not hold us up
        with open(os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InvalidSpec(where, "is no regular file")
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        remedy = "put the profile there on every node" if error.errno == errno.ENOENT else ""
        raise InvalidSpec(where, f"{error.strerror}{remedy and ': ' + remedy}") from error
    if len(content) > MAX_BYTES:
        raise InvalidSpec(where, f"is larger than a profile may be, {MAX_BYTES} bytes")
    return parse(content, where, capabilities)


def parse(content: bytes, where: str, capabilities: Iterable[str] = ()) -> Seccomp:
    """As `load`, for what is in hand. where: the name that errors give to it."""
    try:
        profile = decode(_File, json.loads(content), camel=True)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(where, str(error)) from error
    if profile.architectures and profile.arch_map:
        raise InvalidSpec(f"{where}: archMap", "give either architectures or archMap")
    held, machine = frozenset(capabilities), os.uname().machine
    rules = []
    for index, rule in enumerate(profile.syscalls):
        if bool(rule.name) == bool(rule.names):
            raise InvalidSpec(f"{where}: syscalls[{index}].names", "names must list system calls")
        try:
            if not _applies(rule, held, machine):
                continue
        except ValueError as error:
            raise InvalidSpec(f"{where}: syscalls[{index}]", str(error)) from error
        names = rule.names or (rule.name,)
        rules.append(SeccompSyscalls(names, rule.action, rule.errno_ret, rule.args))
    return Seccomp(
        default_action=profile.default_action,
        default_errno_ret=profile.default_errno_ret,
        architectures=profile.architectures or _mapped(profile.arch_map, machine),
        flags=profile.flags,
        syscalls=tuple(rules),
        listener_path=profile.listener_path,
        listener_metadata=profile.listener_metadata,
    )


# Docker names machines as Go does.
_GO_MACHINES: Mapping[str, str] = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
}


def _applies(rule: _Rule, held: frozenset[str], machine: str) -> bool:
    includes, excludes = rule.includes, rule.excludes
    go_machine = _GO_MACHINES.get(machine, machine)
    return not (
        (includes.arches and go_machine not in includes.arches)
        or go_machine in excludes.arches
        or not held.issuperset(includes.caps)
        or not held.isdisjoint(excludes.caps)
        or (includes.min_kernel and _kernel() < _version(includes.min_kernel))
        or (excludes.min_kernel and _kernel() >= _version(excludes.min_kernel))
    )


def _mapped(arch_map: tuple[_Architecture, ...], machine: str) -> tuple[str, ...]:
    for entry in arch_map:
        if entry.architecture in _architectures(machine)[:1]:
            return (entry.architecture, *entry.sub_architectures)
    return ()


def _version(text: str) -> tuple[int, int]:
    match = re.match(r"([0-9]+)\.([0-9]+)", text)
    if not match:
        raise ValueError(f"minKernel: {text!r} is no version such as 4.8")
    return int(match[1]), int(match[2])


def _kernel() -> tuple[int, int]:
    return _version(os.uname().release)
