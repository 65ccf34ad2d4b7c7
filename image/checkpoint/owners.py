"""Whose files are, for pods with users of their own: in archives always as these see themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_NOBODY: Final = 65534  # what the kernel calls those who have no number on the other side


@dataclass(frozen=True, slots=True)
class Owners:
    """The node's users from `uid` on, `uids` of them, are those from 0 on of a pod; so are groups.

    The same shape as runtime.init.values.UserMap, of which this package knows nothing.
    """

    uid: int
    gid: int
    uids: int
    gids: int

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """Who one of the node is in the pod."""
        return _less(uid, self.uid, self.uids), _less(gid, self.gid, self.gids)

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """Who one of the pod is on the node. Never anybody but one of the pod's."""
        return self.uid + _within(uid, self.uids), self.gid + _within(gid, self.gids)


def _less(number: int, first: int, count: int) -> int:
    return number - first if first <= number < first + count else _NOBODY


def _within(number: int, count: int) -> int:
    return number if 0 <= number < count else min(_NOBODY, count - 1)
