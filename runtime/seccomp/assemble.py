"""Verdicts by system call number to classic BPF: a binary search, then conditions on arguments.

    load the architecture; for each: is it this one? else on to the next; none: kill
    load the number; binary search in the ranges of equal verdicts
        return the action, or: for each clause, if its conditions hold return its action;
        return the default

Most of a filter's cost is not running it (the kernel remembers what it says about a number) but
installing it, at each start and exec: that grows with its length and the depth of its search.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_INSTRUCTION = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, if false, k
INSTRUCTION_BYTES = _INSTRUCTION.size
_LOAD, _AND, _RETURN, _JUMP = 0x20, 0x54, 0x06, 0x05
_EQUAL, _ABOVE, _AT_LEAST = 0x15, 0x25, 0x35
_FARTHEST = 255  # jumps of comparisons have eight bits

# struct seccomp_data: int nr, u32 arch, u64 instruction_pointer, u64 args[6]; little-endian.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

Code = list[tuple[int, int, int, int]]


@dataclass(frozen=True, slots=True)
class Condition:
    """index: 0 to 5; op: SCMP_CMP_*; value: what to compare with, or the mask of MASKED_EQ;
    masked: what the masked argument must be.
    """

    index: int
    op: str
    value: int
    masked: int = 0


@dataclass(frozen=True, slots=True)
class Clause:
    """action (SECCOMP_RET_*) if all conditions hold."""

    conditions: tuple[Condition, ...]
    action: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The action of the first clause that holds, else `action`. wide: see Architecture."""

    action: int
    clauses: tuple[Clause, ...] = ()
    wide: bool = True


def assemble(sections: Mapping[int, Sequence[tuple[int, Verdict]]], other: int) -> bytes:
    """sections: audit architecture -> (first number, verdict), ascending, the first at 0;
    other: the action for architectures that are not listed. Answers struct sock_filter[].
    """
    code = [_load(_ARCHITECTURE)]
    for audit, ranges in sections.items():
        section = [_load(_NUMBER), *_search(ranges)]
        code += [(_EQUAL, 1, 0, audit), _jump(section), *section]
    code.append(_return(other))
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _search(ranges: Sequence[tuple[int, Verdict]]) -> Code:
    if len(ranges) == 1:
        return _verdict(ranges[0][1])
    middle = len(ranges) // 2
    low, high = _search(ranges[:middle]), _search(ranges[middle:])
    pivot = ranges[middle][0]
    if len(low) <= _FARTHEST:
        return [(_AT_LEAST, len(low), 0, pivot), *low, *high]
    return [(_AT_LEAST, 0, 1, pivot), _jump(low), *low, *high]


def _verdict(verdict: Verdict) -> Code:
    code: Code = []
    for clause in verdict.clauses:
        code += _clause(clause, wide=verdict.wide)
    return [*code, _return(verdict.action)]


def _clause(clause: Clause, *, wide: bool) -> Code:
    code = [_return(clause.action)]
    for condition in reversed(clause.conditions):
        code = [*_condition(condition, wide=wide, beyond=len(code)), *code]
    return code


# How a comparison goes on: at the next instruction, behind the condition (it holds), or behind
# the clause (it doesn't).
_NEXT, _HOLDS, _FAILS = range(3)
_Step = tuple[int, int, int]  # comparison, where to go if true, if false

# op -> (what to ask the upper half in turn, what to ask the lower half). The first three are
# enough: LT, LE and NE are the others with holds and fails swapped.
_COMPARISONS: Mapping[str, tuple[tuple[_Step, ...], _Step]] = {
    "SCMP_CMP_EQ": (((_EQUAL, _NEXT, _FAILS),), (_EQUAL, _HOLDS, _FAILS)),
    "SCMP_CMP_GT": (
        ((_ABOVE, _HOLDS, _NEXT), (_EQUAL, _NEXT, _FAILS)),
        (_ABOVE, _HOLDS, _FAILS),
    ),
    "SCMP_CMP_GE": (
        ((_ABOVE, _HOLDS, _NEXT), (_EQUAL, _NEXT, _FAILS)),
        (_AT_LEAST, _HOLDS, _FAILS),
    ),
}
_NEGATIONS = {
    "SCMP_CMP_NE": "SCMP_CMP_EQ",
    "SCMP_CMP_LE": "SCMP_CMP_GT",
    "SCMP_CMP_LT": "SCMP_CMP_GE",
}
_MASKED = "SCMP_CMP_MASKED_EQ"
OPERATORS = (*_COMPARISONS, *_NEGATIONS, _MASKED)


def _condition(condition: Condition, *, wide: bool, beyond: int) -> Code:
    """beyond: how many instructions of the clause follow."""
    op, mask, value = condition.op, (1 << 64) - 1, condition.value
    if op == _MASKED:
        op, mask, value = "SCMP_CMP_EQ", condition.value, condition.value & condition.masked
    upper, lower = _COMPARISONS[_NEGATIONS.get(op, op)]
    offset = _ARGUMENTS + 8 * condition.index
    steps: list[tuple[_Step | None, tuple[int, int, int, int]]] = []
    if wide:
        steps += _half(offset + 4, mask >> 32, value >> 32, upper)
    steps += _half(offset, mask & 0xFFFFFFFF, value & 0xFFFFFFFF, (lower,))
    code: Code = []
    for position, (step, instruction) in enumerate(steps):
        if step is not None:
            holds = len(steps) - 1 - position
            distances = {_NEXT: 0, _HOLDS: holds, _FAILS: holds + beyond}
            if op in _NEGATIONS:
                distances[_HOLDS], distances[_FAILS] = distances[_FAILS], distances[_HOLDS]
            instruction = (step[0], distances[step[1]], distances[step[2]], instruction[3])
        code.append(instruction)
    return code


def _half(
    offset: int, mask: int, value: int, comparisons: Sequence[_Step]
) -> list[tuple[_Step | None, tuple[int, int, int, int]]]:
    """Loads 32 bits of an argument and compares them; jumps are filled in later."""
    steps: list[tuple[_Step | None, tuple[int, int, int, int]]] = [(None, _load(offset))]
    if mask != 0xFFFFFFFF:
        steps.append((None, (_AND, 0, 0, mask)))
    return steps + [(step, (0, 0, 0, value)) for step in comparisons]


def _load(offset: int) -> tuple[int, int, int, int]:
    return _LOAD, 0, 0, offset


def _return(action: int) -> tuple[int, int, int, int]:
    return _RETURN, 0, 0, action


def _jump(over: Code) -> tuple[int, int, int, int]:
    return _JUMP, 0, 0, len(over)
