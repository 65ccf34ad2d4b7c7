"""A seccomp profile to the BPF program that the kernel runs: libseccomp's, and a prologue of ours.

prologue   what libseccomp can't say, see prologue.py
filter     libseccomp's: everything else
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from runtime.errors import InvalidSpec
from runtime.linux.libseccomp import (
    Compare,
    Filter,
    SeccompRefused,
    architecture,
    native_architecture,
    system_call,
)
from runtime.seccomp import default, prologue
from runtime.spec import Seccomp, SeccompSyscalls

FIELD = "linux.seccomp"
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_ACTIONS: Mapping[str, int] = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_REFUSING = ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP",
             "SCMP_ACT_ERRNO")  # fmt: skip

# SECCOMP_FILTER_FLAG_* of linux/seccomp.h, which the one who installs the program passes on.
_FLAGS: Mapping[str, int] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
}
_SPEC_ALLOW = 4


def install_flags(seccomp: Seccomp) -> int:
    """The flags argument of seccomp(SECCOMP_SET_MODE_FILTER). Raises InvalidSpec.

    Without any in the profile: SPEC_ALLOW, as other runtimes do: else a filter slows every
    program down on kernels before 5.16, which couple it with a mitigation.
    """
    flags = 0
    for name in seccomp.flags:
        if name not in _FLAGS:
            raise InvalidSpec(f"{FIELD}.flags", f"{name!r} is none of {', '.join(_FLAGS)}")
        flags |= _FLAGS[name]
    return flags if seccomp.flags else _SPEC_ALLOW


@functools.lru_cache(maxsize=64)
def program(seccomp: Seccomp) -> bytes:
    """The program of a profile: struct sock_filter, 8 bytes each, for this machine.

    Cached by the profile's contents. Raises InvalidSpec naming the field.
    """
    default_action = action(seccomp.default_action, seccomp.default_errno_ret, "defaultAction")
    tokens = _architectures(seccomp)
    unnamed: dict[str, int] = {}
    with Filter(default_action) as filter_:
        filter_.set_binary_tree()
        for token in tokens:
            filter_.add_architecture(token)
        for index, rule in enumerate(seccomp.syscalls):
            value = action(rule.action, rule.errno_ret, f"syscalls[{index}].action")
            if value != default_action:  # says nothing new, and libseccomp refuses it
                unnamed |= _add(filter_, rule, value, index)
        body = filter_.export()
    refusing = seccomp.default_action in _REFUSING and default_action != prologue.NO_SUCH_CALL
    known = [name for rule in seccomp.syscalls for name in rule.names] if refusing else []
    code = prologue.prologue(tokens, unnamed, known) + body
    if len(code) > MAX_INSTRUCTIONS * prologue.INSTRUCTION_BYTES:
        count = len(code) // prologue.INSTRUCTION_BYTES
        raise InvalidSpec(FIELD, f"comes to {count} instructions; the kernel takes 4096 at most")
    return code


def action(name: str, errno_ret: int | None, field: str) -> int:
    """The kernel's SECCOMP_RET_* with its errno (EPERM unless told). Raises InvalidSpec."""
    if name == "SCMP_ACT_NOTIFY":
        raise InvalidSpec(f"{FIELD}.{field}", "SCMP_ACT_NOTIFY needs a listener, there is none")
    if name not in _ACTIONS:
        raise InvalidSpec(f"{FIELD}.{field}", f"{name!r} is none of {', '.join(_ACTIONS)}")
    if name not in _WITH_ERRNO:
        return _ACTIONS[name]
    number = default.EPERM if errno_ret is None else errno_ret
    if not 0 <= number < 4096:
        raise InvalidSpec(f"{FIELD}.{field}", f"errno {number} is out of range (0 to 4095)")
    return _ACTIONS[name] | number


def _architectures(seccomp: Seccomp) -> tuple[int, ...]:
    """Audit tokens, the machine's own first."""
    tokens = [native_architecture()]
    for name in seccomp.architectures:
        token = architecture(name.removeprefix("SCMP_ARCH_").lower())
        if token is None or not name.startswith("SCMP_ARCH_"):
            raise InvalidSpec(f"{FIELD}.architectures", f"{name!r} is unknown here")
        tokens.append(token)
    return tuple(dict.fromkeys(tokens))


def _add(filter_: Filter, rule: SeccompSyscalls, value: int, index: int) -> dict[str, int]:
    """Adds the rule for each name; answers name -> action for those libseccomp doesn't know.

    A name that nobody knows is passed over: profiles are written for many kernels.
    """
    arguments = _arguments(rule, index)
    native = native_architecture()
    unnamed = {}
    for name in rule.names:
        number = system_call(name, native)
        if number is None:
            if prologue.has_number(name):
                if arguments:
                    raise InvalidSpec(
                        f"{FIELD}.syscalls[{index}]",
                        f"conditions on {name} need a newer libseccomp than this machine's",
                    )
                unnamed[name] = value
            continue
        try:
            filter_.add_rule(value, number, arguments)
        except SeccompRefused as error:
            raise InvalidSpec(f"{FIELD}.syscalls[{index}]", f"{name}: {error}") from error
    return unnamed


def _arguments(rule: SeccompSyscalls, index: int) -> list[tuple[int, Compare, int, int]]:
    result = []
    for position, argument in enumerate(rule.args):
        path = f"{FIELD}.syscalls[{index}].args[{position}]"
        if argument.op not in Compare.__members__:
            raise InvalidSpec(
                f"{path}.op", f"{argument.op!r} is none of {', '.join(Compare.__members__)}"
            )
        if not 0 <= argument.index <= 5:
            raise InvalidSpec(f"{path}.index", f"{argument.index} is out of range (0 to 5)")
        for name, number in (("value", argument.value), ("valueTwo", argument.value_two)):
            if not 0 <= number < 1 << 64:
                raise InvalidSpec(f"{path}.{name}", f"{number} doesn't fit into 64 bits")
        result.append((argument.index, Compare[argument.op], argument.value, argument.value_two))
    return result
