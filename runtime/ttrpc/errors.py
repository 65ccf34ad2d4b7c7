"""What can go wrong in a conversation."""

from __future__ import annotations

from enum import IntEnum

from runtime.errors import RuntimeFault


class Code(IntEnum):
    """The codes of google.rpc.Code that are used here."""

    OK = 0
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    FAILED_PRECONDITION = 9
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14


class ConversationEnded(RuntimeFault):
    """The other end is gone, or can't be believed any more: no call will be answered."""


class Violation(ConversationEnded):
    """Bytes that the protocol doesn't allow. There is no way to find the next frame."""


class CallFailed(RuntimeFault):
    """The other end's own answer. code: of google.rpc.Code; text: in its words."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
