"""Files that have no name until they are whole: what is ended before leaves nothing of them."""

from __future__ import annotations

import os
from typing import Final

from runtime.linux.libc import Integer, Text, declare

_FLAGS: Final = os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC
_AT_EMPTY_PATH: Final = 0x1000

_linkat = declare("linkat", Integer, Text, Integer, Text, Integer)


def create(directory: int) -> int:
    """A new regular file, for nobody else, on the file system of a directory. Raises OSError."""
    return os.open(".", _FLAGS, 0o600, dir_fd=directory)


def give_name(fd: int, directory: int, name: str) -> None:
    """By its descriptor, as there need not be a /proc: takes CAP_DAC_READ_SEARCH, see open(2).

    Raises FileExistsError if the name is taken, OSError.
    """
    _linkat(fd, b"", directory, os.fsencode(name), _AT_EMPTY_PATH)
