"""Labels (`user:role:type:level`) and their levels, as text. Pure.

A level is `s0`, `s0:c1,c2`, `s0:c1.c5` or a range of two. Two pods that share no set of categories
can't touch each other's files, though both have the same type. See selinux(8), mcs(8).
"""

from __future__ import annotations

import random
import re
from collections.abc import Collection
from dataclasses import dataclass

CATEGORIES = 1024  # c0 to c1023, in all policies that have any

_SET = r"c\d{1,4}(\.c\d{1,4})?"
_LEVEL = re.compile(rf"s\d{{1,2}}(-s\d{{1,2}})?(:{_SET}(,{_SET})*)?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


@dataclass(frozen=True, slots=True)
class Label:
    """A security context. level: "" where the policy knows no levels."""

    user: str
    role: str
    type: str
    level: str = ""

    @classmethod
    def parse(cls, text: str) -> Label:
        """Raises ValueError."""
        parts = text.split(":", 3)
        if len(parts) < 3 or not all(map(is_name, parts[:3])):
            raise ValueError(f"{text!r} is no SELinux label, which is user:role:type:level")
        if len(parts) == 4 and not is_level(parts[3]):
            raise ValueError(f"{text!r}: {parts[3]!r} is no level, such as s0:c1,c2")
        return cls(*parts)

    def __str__(self) -> str:
        return ":".join(filter(None, (self.user, self.role, self.type, self.level)))


def is_name(text: str) -> bool:
    """Whether it can be the user, role or type of a label."""
    return _NAME.fullmatch(text) is not None


def is_level(text: str) -> bool:
    """Whether it can be the level of a label."""
    return _LEVEL.fullmatch(text) is not None


def sensitivity(level: str) -> str:
    """The lower one of a level: s0."""
    return level.partition(":")[0].partition("-")[0]


def categories(level: str) -> frozenset[int]:
    """Those of a level, written out."""
    found: set[int] = set()
    for part in filter(None, level.partition(":")[2].split(",")):
        first, _, last = part.replace("c", "").partition(".")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def unused_level(base: str, taken: Collection[str]) -> str:
    """A level of base's sensitivity, with two categories that no level in `taken` has together.

    At random, so that the files of a pod that is gone are seldom those of the next one's level.
    Half a million pods fit on a node.
    """
    sets = {categories(level) for level in taken}
    while True:
        pair = frozenset(random.sample(range(CATEGORIES), 2))
        if pair not in sets:
            low, high = sorted(pair)
            return f"{sensitivity(base)}:c{low},c{high}"
