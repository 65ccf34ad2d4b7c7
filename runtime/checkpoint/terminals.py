"""Terminals of a checkpoint: the container's own, whose other end its monitor holds, and others.

CRIU knows the first as an external one: in the images by its device numbers, and when it restores
by a descriptor that it is given under a name made of these. The others it makes in the container.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Final

from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import Message, read, write

if TYPE_CHECKING:
    from runtime.checkpoint.confine import Bounds, Images

IMAGE: Final = "tty-info.img"
_TIOCGPTPEER: Final = 0x5441
_EXTERNAL: Final = 5  # enum TtyType of CRIU's tty.proto
_TYPE, _DEVICE, _LOCKED, _FILE_SYSTEM, _OWNER = 2, 8, 10, 13, 14  # of a tty_info_entry
_TERMIOS: Final = range(1, 8)  # of a termios_entry: all but the characters
_CHARACTERS: Final = 8
_SYS_ADMIN: Final = 1 << 21


def key(master: int) -> str:
    """CRIU's name of the terminal with this master; "" if nobody can have it open any more."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC
    try:
        peer = fcntl.ioctl(master, _TIOCGPTPEER, flags)
    except OSError:
        return ""
    try:
        found = os.fstat(peer)
    finally:
        os.close(peer)
    return _name(found.st_rdev, found.st_dev)


def confine(images: Images, bounds: Bounds) -> str:
    """Rewrites what the images say of terminals; the name by which CRIU wants the container's own.

    To lock a terminal's settings takes CAP_SYS_ADMIN; an owner other than the only user there can
    be takes CAP_CHOWN. "": no process has it open. Raises Refused, MalformedImage.
    """
    if IMAGE not in images.names():
        return ""
    entries = read("tty-info", images.load(IMAGE))
    own = [entry for entry in entries if entry.number(_TYPE) == _EXTERNAL]
    if len(own) > 1 or (own and not bounds.terminal):
        allowed = "one" if bounds.terminal else "none"
        raise Refused(
            f"{len(own)} terminals from outside, where the container is to have {allowed}"
        )
    for entry in entries:
        if not bounds.most & _SYS_ADMIN and entry.has(_LOCKED):
            entry.set(_LOCKED, _unlocked(entry.message(_LOCKED)))
        if bounds.fixed and entry.has(_OWNER):
            entry.set(_OWNER, bounds.identity.uid)
    images.save(IMAGE, write("tty-info", entries))
    return _name(own[0].number(_DEVICE), own[0].number(_FILE_SYSTEM)) if own else ""


def _unlocked(locked: Message) -> Message:
    made = Message.of(*((field, 0) for field in _TERMIOS))
    for _ in locked.numbers(_CHARACTERS):
        made.add(_CHARACTERS, 0)
    return made


def _name(device: int, file_system: int) -> str:
    return f"tty[{device:x}:{file_system:x}]"
