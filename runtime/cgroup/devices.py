"""Which devices a container may use: rules to one policy, and the policy to v1 lines or eBPF.

The OCI list is read from top to bottom and the last rule that covers an access decides; what no
rule covers is refused. https://github.com/opencontainers/runtime-spec/blob/main/config-linux.md#allowed-device-list
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from runtime.errors import InvalidSpec
from runtime.spec import DeviceRule

# What every container gets, whatever its list says: making nodes (the capability decides about
# that), the six harmless devices of the specification, and terminals.
DEFAULTS: tuple[DeviceRule, ...] = (
    DeviceRule(allow=True, type="c", access="m"),
    DeviceRule(allow=True, type="b", access="m"),
    *(
        DeviceRule(allow=True, type="c", major=major, minor=minor)
        for major, minor in (
            (1, 3),  # null
            (1, 5),  # zero
            (1, 7),  # full
            (1, 8),  # random
            (1, 9),  # urandom
            (5, 0),  # tty
            (5, 2),  # ptmx
            (136, None),  # pts/*
        )
    ),
)

_FIELD = "linux.resources.devices"
_ACCESSES = "rwm"
MAX_RULES = 500  # six instructions each; the verifier's limit for a program is 4096 on old kernels


@dataclass(frozen=True, slots=True)
class Policy:
    """allow_all: what holds for devices that no exception names; exceptions: the opposite of it."""

    allow_all: bool
    exceptions: tuple[DeviceRule, ...] = ()


def checked(rules: Iterable[DeviceRule]) -> tuple[DeviceRule, ...]:
    """The rules and then our defaults. Raises InvalidSpec for a malformed one."""
    result = []
    for index, rule in enumerate(rules):
        path = f"{_FIELD}[{index}]"
        if rule.type not in ("a", "b", "c"):
            raise InvalidSpec(f"{path}.type", f"{rule.type!r} is none of a, b, c")
        if set(rule.access) - set(_ACCESSES):
            raise InvalidSpec(f"{path}.access", f"{rule.access!r} is not made of r, w and m")
        for name, number in (("major", rule.major), ("minor", rule.minor)):
            if number is not None and not -1 <= number < 1 << 32:
                raise InvalidSpec(f"{path}.{name}", f"{number} is no device number")
        result.append(_normal(rule))
    if len(result) > MAX_RULES:
        raise InvalidSpec(_FIELD, f"{len(result)} rules; at most {MAX_RULES} are possible")
    return (*result, *DEFAULTS)


def _normal(rule: DeviceRule) -> DeviceRule:
    """Type a stands for every device and every access; -1 is an old way to write "all"."""
    if rule.type == "a":
        return DeviceRule(allow=rule.allow)
    return replace(
        rule,
        major=None if rule.major == -1 else rule.major,
        minor=None if rule.minor == -1 else rule.minor,
        access="".join(letter for letter in _ACCESSES if letter in rule.access) or _ACCESSES,
    )


def everything(rules: Sequence[DeviceRule]) -> bool:
    """True if no access to any device is refused."""
    for rule in reversed(rules):
        if not rule.allow:
            return False
        if rule.type == "a":
            return True
    return False


@functools.lru_cache(maxsize=64)  # most containers of a node have the same few lists
def policy(rules: tuple[DeviceRule, ...]) -> Policy:
    """What the rules come to in cgroup v1's terms: one default and exceptions from it.

    Raises InvalidSpec for a hole in an exception (allow 10:*, then deny 10:200), which a v1 list
    can't express.
    """
    result = Policy(allow_all=False)
    for rule in rules:
        if rule.type == "a":
            result = Policy(allow_all=rule.allow)
        elif rule.allow == result.allow_all:
            result = replace(result, exceptions=_without(result.exceptions, rule))
        elif not any(_covers(other, rule) for other in result.exceptions):
            result = replace(result, exceptions=_with(result.exceptions, rule))
    return result


def _covers(wide: DeviceRule, narrow: DeviceRule) -> bool:
    return _same_devices_or_more(wide, narrow) and set(narrow.access) <= set(wide.access)


def _same_devices_or_more(wide: DeviceRule, narrow: DeviceRule) -> bool:
    return (
        wide.type == narrow.type
        and wide.major in (None, narrow.major)
        and wide.minor in (None, narrow.minor)
    )


def _with(exceptions: tuple[DeviceRule, ...], rule: DeviceRule) -> tuple[DeviceRule, ...]:
    """The kernel keeps one entry for a device: accesses to the same numbers are united."""
    kept = []
    for other in exceptions:
        if (other.type, other.major, other.minor) == (rule.type, rule.major, rule.minor):
            access = "".join(x for x in _ACCESSES if x in other.access or x in rule.access)
            rule = replace(rule, access=access)
        else:
            kept.append(other)
    return (*kept, rule)


def _without(exceptions: tuple[DeviceRule, ...], rule: DeviceRule) -> tuple[DeviceRule, ...]:
    kept = []
    for other in exceptions:
        if _same_devices_or_more(rule, other):
            access = "".join(letter for letter in other.access if letter not in rule.access)
            if access:
                kept.append(replace(other, access=access))
            continue
        if _overlap(other, rule):
            raise InvalidSpec(
                _FIELD,
                f"cgroup v1 can't take {line(rule)!r} out of {line(other)!r}: "
                "list the devices one by one, or use cgroup v2",
            )
        kept.append(other)
    return tuple(kept)


def _overlap(one: DeviceRule, other: DeviceRule) -> bool:
    return (
        one.type == other.type
        and (one.major is None or other.major is None or one.major == other.major)
        and (one.minor is None or other.minor is None or one.minor == other.minor)
        and bool(set(one.access) & set(other.access))
    )


def line(rule: DeviceRule) -> str:
    """The rule as devices.allow and devices.deny read it: "c 1:3 rwm"."""
    numbers = ("*" if number is None else str(number) for number in (rule.major, rule.minor))
    return f"{rule.type} {':'.join(numbers)} {rule.access}"


# --- eBPF -----------------------------------------------------------------------------------
# Context (struct bpf_cgroup_dev_ctx): u32 access_type (type | access << 16), u32 major, u32 minor.

_INSTRUCTION = struct.Struct("<BBhi")
_LOAD_WORD, _MOVE, _MOVE_CONSTANT, _AND, _SHIFT_RIGHT = 0x61, 0xBC, 0xB4, 0x54, 0x74
_JUMP, _JUMP_NOT_EQUAL, _JUMP_SET, _EXIT = 0x05, 0x56, 0x46, 0x95
_TYPES = {"b": 1, "c": 2}
_ACCESS_BITS = {"m": 1, "r": 2, "w": 4}
_R0, _R1, _TYPE, _WANTED, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5


def _instruction(
    code: int, target: int = 0, *, source: int = 0, offset: int = 0, value: int = 0
) -> bytes:
    signed = value - (1 << 32) if value >= 1 << 31 else value
    return _INSTRUCTION.pack(code, source << 4 | target, offset, signed)


def bpf_program(rules: Iterable[DeviceRule]) -> bytes:
    """A BPF_PROG_TYPE_CGROUP_DEVICE program (8 bytes an instruction) that answers 1 or 0.

    It walks the rules from the last to the first with the set of accesses that are still
    undecided: a refusing rule that covers one of them ends in 0, an allowing one takes its
    accesses out of the set, an empty set ends in 1. So the last word about each access holds,
    which neither lists nor whole-rule matching can express.
    """
    program = [
        _instruction(_LOAD_WORD, _TYPE, source=_R1),
        _instruction(_MOVE, _WANTED, source=_TYPE),
        _instruction(_AND, _TYPE, value=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, value=16),
        _instruction(_LOAD_WORD, _MAJOR, source=_R1, offset=4),
        _instruction(_LOAD_WORD, _MINOR, source=_R1, offset=8),
    ]
    for rule in reversed(tuple(rules)):
        program.append(_rule_code(rule))
        if rule.type == "a":  # nothing before it matters any more
            break
    else:
        program.append(_answer(allow=False))
    return b"".join(program)


def _answer(*, allow: bool) -> bytes:
    return _instruction(_MOVE_CONSTANT, _R0, value=int(allow)) + _instruction(_EXIT)


def _rule_code(rule: DeviceRule) -> bytes:
    if rule.type == "a":
        return _answer(allow=rule.allow)
    bits = sum(_ACCESS_BITS[letter] for letter in rule.access)
    if rule.allow:
        decide = (
            _instruction(_AND, _WANTED, value=0xFFFF & ~bits)
            + _instruction(_JUMP_NOT_EQUAL, _WANTED, offset=2, value=0)
            + _answer(allow=True)
        )
    else:
        decide = (
            _instruction(_JUMP_SET, _WANTED, offset=1, value=bits)
            + _instruction(_JUMP, offset=2)  # none of them asked for: go on
            + _answer(allow=False)
        )
    conditions = [(_TYPE, _TYPES[rule.type]), (_MAJOR, rule.major), (_MINOR, rule.minor)]
    code = decide
    for register, number in reversed(conditions):
        if number is not None:
            code = (
                _instruction(
                    _JUMP_NOT_EQUAL, register, offset=len(code) // _INSTRUCTION.size, value=number
                )
                + code
            )
    return code
