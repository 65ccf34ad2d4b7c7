"""A seccomp profile to the BPF program that the kernel runs on this machine.

For each call: a rule without conditions decides, the first if there are several; else the first
rule whose conditions hold; else the default. What is newer than all calls the profile names gets
ENOSYS where the default refuses: a program that tries a new call falls back to an old one for
ENOSYS, and gives up for EPERM; and nobody can have meant to refuse what he didn't know.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from runtime.errors import InvalidSpec
from runtime.linux.seccomp import NEW_LISTENER
from runtime.seccomp import default, machine
from runtime.seccomp.assemble import (
    INSTRUCTION_BYTES,
    OPERATORS,
    Clause,
    Condition,
    Verdict,
    assemble,
)
from runtime.seccomp.machine import SKIPPED, X32, X32_BIT, X86_64, Architecture
from runtime.spec import Seccomp, SeccompSyscalls

FIELD = "linux.seccomp"
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS

_ACTIONS: Mapping[str, int] = {
    "SCMP_ACT_KILL": 0x00000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x00030000,
    "SCMP_ACT_ERRNO": 0x00050000,
    "SCMP_ACT_NOTIFY": 0x7FC00000,
    "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_ALLOW": 0x7FFF0000,
}
_WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_REFUSING = ("SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP",
             "SCMP_ACT_ERRNO")  # fmt: skip
_KILL = _ACTIONS["SCMP_ACT_KILL"]
_NO_SUCH_CALL = _ACTIONS["SCMP_ACT_ERRNO"] | default.ENOSYS

# SECCOMP_FILTER_FLAG_* of linux/seccomp.h, which the one who installs the program passes on.
_FLAGS: Mapping[str, int] = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1,
    "SECCOMP_FILTER_FLAG_LOG": 2,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 4,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 32,
}
_SPEC_ALLOW = 4
_NOTIFY = "SCMP_ACT_NOTIFY"
_HANDED_OVER_BY = ("read", "write")  # see runtime.init.channel


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
    flags = flags if seccomp.flags else _SPEC_ALLOW
    if not _notifies(seccomp):
        return flags
    # Of one thread, as init is, nothing has to be synchronised; the kernel refuses both together.
    return flags & ~_FLAGS["SECCOMP_FILTER_FLAG_TSYNC"] | NEW_LISTENER


def _notifies(seccomp: Seccomp) -> bool:
    """Whether somebody has to answer. Raises InvalidSpec if nobody can."""
    if seccomp.default_action == _NOTIFY:
        text = "SCMP_ACT_NOTIFY for every call: who answers could never be told of the first"
        raise InvalidSpec(f"{FIELD}.defaultAction", text)
    found = [rule for rule in seccomp.syscalls if rule.action == _NOTIFY]
    for name in {name for rule in found for name in rule.names}.intersection(_HANDED_OVER_BY):
        text = f"SCMP_ACT_NOTIFY for {name}: by it the listener itself is handed over"
        raise InvalidSpec(f"{FIELD}.syscalls", text)
    path = seccomp.listener_path
    if found and (not path.startswith("/") or "\0" in path):
        text = f"{path!r}: SCMP_ACT_NOTIFY takes the absolute path of a socket where one listens"
        raise InvalidSpec(f"{FIELD}.listenerPath", text)
    return bool(found)


@functools.lru_cache(maxsize=64)
def program(seccomp: Seccomp) -> bytes:
    """The program of a profile: struct sock_filter, 8 bytes each, for this machine.

    Cached by the profile's contents. Names that nobody knows are passed over: profiles are
    written for many kernels. Raises InvalidSpec naming the field.
    """
    install_flags(seccomp)
    otherwise = _action(seccomp.default_action, seccomp.default_errno_ret, "defaultAction")
    rules = [_checked(rule, index) for index, rule in enumerate(seccomp.syscalls)]
    rules = [rule for rule in rules if rule[1].action != otherwise]
    refusing = seccomp.default_action in _REFUSING
    architectures = machine.chosen(seccomp.architectures)
    newest = SKIPPED
    sections: dict[int, list[tuple[int, Verdict]]] = {}
    for architecture in architectures:
        if refusing:
            newest = _newest(seccomp, architecture)
        verdicts = _verdicts(rules, architecture, otherwise)
        ranges = _ranges(verdicts, architecture, newest, otherwise)
        sections.setdefault(architecture.audit, []).extend(ranges)
    if X86_64 in architectures and X32 not in architectures:
        sections[X86_64.audit] += [(X32_BIT, Verdict(_KILL)), (SKIPPED, Verdict(otherwise))]
    code = assemble(sections, other=_KILL)
    if len(code) > MAX_INSTRUCTIONS * INSTRUCTION_BYTES:
        count = len(code) // INSTRUCTION_BYTES
        raise InvalidSpec(FIELD, f"comes to {count} instructions; the kernel takes 4096 at most")
    return code


_Rule = tuple[tuple[str, ...], Clause]


def _checked(rule: SeccompSyscalls, index: int) -> _Rule:
    where = f"syscalls[{index}]"
    action = _action(rule.action, rule.errno_ret, f"{where}.action")
    conditions = []
    for position, argument in enumerate(rule.args):
        path = f"{FIELD}.{where}.args[{position}]"
        if argument.op not in OPERATORS:
            raise InvalidSpec(f"{path}.op", f"{argument.op!r} is none of {', '.join(OPERATORS)}")
        if not 0 <= argument.index <= 5:
            raise InvalidSpec(f"{path}.index", f"{argument.index} is out of range (0 to 5)")
        for name, number in (("value", argument.value), ("valueTwo", argument.value_two)):
            if not 0 <= number < 1 << 64:
                raise InvalidSpec(f"{path}.{name}", f"{number} doesn't fit into 64 bits")
        conditions.append(
            Condition(argument.index, argument.op, argument.value, argument.value_two)
        )
    return rule.names, Clause(tuple(conditions), action)


def _action(name: str, errno_ret: int | None, field: str) -> int:
    """The kernel's SECCOMP_RET_* with its errno (EPERM unless told). Raises InvalidSpec."""
    if name not in _ACTIONS:
        raise InvalidSpec(f"{FIELD}.{field}", f"{name!r} is none of {', '.join(_ACTIONS)}")
    if name not in _WITH_ERRNO:
        return _ACTIONS[name]
    number = default.EPERM if errno_ret is None else errno_ret
    if not 0 <= number < 4096:
        raise InvalidSpec(f"{FIELD}.{field}", f"errno {number} is out of range (0 to 4095)")
    return _ACTIONS[name] | number


def _verdicts(rules: list[_Rule], architecture: Architecture, otherwise: int) -> dict[int, Verdict]:
    """Call number -> what the rules say about it."""
    unconditional: dict[int, int] = {}
    clauses: dict[int, list[Clause]] = {}
    for names, clause in rules:
        for name in names:
            for call in machine.calls(name, architecture):
                conditions = clause.conditions
                if call.selector is not None:
                    if conditions and clause.action == _ACTIONS["SCMP_ACT_ALLOW"]:
                        continue  # its arguments can't be seen, so it can't be allowed for them
                    mask, value = call.selector
                    conditions = (Condition(0, "SCMP_CMP_MASKED_EQ", mask, value),)
                if conditions:
                    clauses.setdefault(call.number, []).append(Clause(conditions, clause.action))
                else:
                    unconditional.setdefault(call.number, clause.action)
    result = {
        number: Verdict(otherwise, tuple(listed), wide=architecture.wide)
        for number, listed in clauses.items()
    }
    return result | {number: Verdict(action) for number, action in unconditional.items()}


def _newest(seccomp: Seccomp, architecture: Architecture) -> int:
    """The highest number of a call that the profile names, whatever it says about it."""
    numbers = (
        call.number
        for rule in seccomp.syscalls
        for name in rule.names
        for call in machine.calls(name, architecture)
        if call.number < architecture.end
    )
    return max(numbers, default=SKIPPED)


def _ranges(
    verdicts: Mapping[int, Verdict], architecture: Architecture, newest: int, otherwise: int
) -> list[tuple[int, Verdict]]:
    """(first number, verdict) of each run of equal verdicts, in the architecture's numbers.

    Those from its end on get the default, unless they are another architecture's.
    """
    borders = {architecture.first, *verdicts, *(number + 1 for number in verdicts)}
    if newest < architecture.end:
        borders.add(newest + 1)
    if architecture is not X86_64:
        borders.add(architecture.end)
    result: list[tuple[int, Verdict]] = []
    for number in sorted(borders):
        unknown = newest < number < architecture.end
        verdict = verdicts.get(number, Verdict(_NO_SUCH_CALL if unknown else otherwise))
        if not result or result[-1][1] != verdict:
            result.append((number, verdict))
    return result
