"""The tar format: bytes in, entries and their contents out. Touches no file.

Understands v7, ustar, GNU (long names, base-256 numbers, old sparse files) and pax (records of
POSIX.1-2001, SCHILY.xattr, GNU sparse 0.0 to 1.0), which is what Docker, BuildKit, buildah, bazel
and GNU tar write.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple
from zlib import adler32

from image.errors import LayerMalformed
from image.unpack import sparse
from image.unpack.stream import Stream

BLOCK: Final = 512
NAME_LIMIT: Final = 4096  # PATH_MAX
_EXTENDED_LIMIT: Final = 1 << 20  # bytes of one header that describes the next member
_ZERO: Final = bytes(BLOCK)
_HEADER: Final = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_XATTR: Final = b"SCHILY.xattr."
_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
_DESCRIBING: Final = (_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK)
_REGULAR: Final = (b"0", b"\0", b"7", _SPARSE)
# Members of these kinds have no contents, whatever their size field says (GNU tar, Go agree).
_EMPTY: Final = (b"1", b"2", b"3", b"4", b"5", b"6")
_LAST_ID: Final = (1 << 32) - 2  # (uid_t)-1 means "leave it" to chown(2)
_LAST_SECOND: Final = 1 << 34  # what ext4 can store; anything beyond becomes 1970

FILE: Final = b"0"
HARD_LINK: Final = b"1"
SYMBOLIC_LINK: Final = b"2"
CHARACTER_DEVICE: Final = b"3"
BLOCK_DEVICE: Final = b"4"
DIRECTORY: Final = b"5"
FIFO: Final = b"6"


class Entry(NamedTuple):
    """One member. kind: tar's type flag, with FILE for all kinds of regular file.

    size: bytes of the file; device: major, minor; pieces: where the stored bytes of a sparse file
    belong, as (offset, length), or None.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]
    pieces: sparse.Pieces | None


class Archive:
    """The members of a tar stream, in their order.

    Read `contents()` of a member, or not, before going on to the next. After the last one the rest
    of the stream has been read too, so that whoever hashes it has seen it whole.
    Raises LayerMalformed.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._stream = Stream(chunks)
        self._left = 0  # stored bytes of the present member that nobody has read yet
        self._padding = 0  # zeros behind them, up to a whole block

    @property
    def offset(self) -> int:
        """Where in the stream the next byte is; right after an entry, its contents."""
        return self._stream.offset

    def __iter__(self) -> Iterator[Entry]:
        extended: dict[bytes, bytes] = {}
        while header := self._header():
            kind = header[156:157]
            if kind in _DESCRIBING:
                self._describe(header, extended)
                continue
            fields = _HEADER.unpack(header)
            entry, stored = _member(fields, extended)
            self._left, self._padding = stored, -stored % BLOCK
            if kind == _SPARSE or (extended and sparse.SIZE_KEYS & extended.keys()):
                entry = self._sparse(header, entry, extended)
            extended = {}
            yield entry
            self._stream.skip(self._left + self._padding)
        self._stream.skip_all()

    def contents(self) -> Iterator[memoryview]:
        """The stored bytes of the present member, in pieces no longer than the stream's chunks."""
        for piece in self._stream.pieces(self._left):
            self._left -= len(piece)
            yield piece

    def _header(self) -> bytes:
        """The next header block, its checksum verified; b"" at the end of the archive."""
        block = self._stream.take(BLOCK, at_end_too=True)
        if not block or block == _ZERO:
            return b""
        field = block[148:156]
        # The checksum is the sum of all bytes with its own field as spaces. adler32's lower half
        # is that sum (+1, modulo 65521) at the speed of C; Python's sum() takes ten times longer.
        expected = _number(field, "checksum") - 8 * 0x20 + sum(field)
        if ((adler32(block) & 0xFFFF) - 1 - expected) % 65521:
            raise LayerMalformed("a header's checksum is wrong: this is no tar archive, or damaged")
        return block

    def _describe(self, header: bytes, extended: dict[bytes, bytes]) -> None:
        """Read a header that describes the next member. Global ones are passed over, as in Go."""
        kind = header[156:157]
        size = _number(header[124:136], "size")
        if size > _EXTENDED_LIMIT:
            raise LayerMalformed(f"an extended header of {size} bytes; {_EXTENDED_LIMIT} may be")
        data = self._stream.take(size)
        self._stream.skip(-size % BLOCK)
        if kind == _PAX:
            _records(data, extended)
        elif kind == _LONG_NAME:
            extended[b"path"] = data.partition(b"\0")[0]
        elif kind == _LONG_LINK:
            extended[b"linkpath"] = data.partition(b"\0")[0]

    def _sparse(self, header: bytes, entry: Entry, extended: dict[bytes, bytes]) -> Entry:
        """The entry of a sparse file; what its map takes from the contents has been read."""
        if header[156:157] == _SPARSE:
            size, pieces = sparse.from_header(header, self._stream, _number)
        elif b"GNU.sparse.major" in extended:
            size = sparse.decimal(extended.get(b"GNU.sparse.realsize", b""))
            pieces, used = sparse.from_contents(self._stream, self._left)
            self._left -= used
        else:
            size = sparse.decimal(extended.get(b"GNU.sparse.size", b""))
            pieces = sparse.from_text(extended.get(b"GNU.sparse.map", b""))
        sparse.check(pieces, size, self._left)
        name = extended.get(b"GNU.sparse.name", entry.name)
        return entry._replace(name=name, size=size, pieces=pieces)


def _member(fields: tuple[bytes, ...], extended: dict[bytes, bytes]) -> tuple[Entry, int]:
    """The entry of a header and what described it; and how many bytes are stored behind it."""
    (name, mode, uid, gid, size, mtime, _, kind, link, magic, _, _, major, minor, prefix) = fields
    name = name.partition(b"\0")[0]
    target = link.partition(b"\0")[0]
    if magic[:6] == b"ustar\0" and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    owner = (_number(uid, "uid"), _number(gid, "gid"))
    stored = _number(size, "size")
    nanoseconds = _number(mtime, "mtime") * 1_000_000_000
    xattrs: dict[bytes, bytes] = {}
    if extended:
        name = extended.get(b"path", name)
        target = extended.get(b"linkpath", target)
        stored = _decimal(extended, b"size", stored)
        owner = (_decimal(extended, b"uid", owner[0]), _decimal(extended, b"gid", owner[1]))
        nanoseconds = _nanoseconds(extended, nanoseconds)
        xattrs = {k[len(_XATTR) :]: v for k, v in extended.items() if k.startswith(_XATTR)}
    if b"\0" in name or b"\0" in target:
        raise LayerMalformed(f"{name!r}: a name with a zero byte inside")
    if max(owner) > _LAST_ID:
        raise LayerMalformed(f"{name!r}: owner {owner[0]}:{owner[1]} is out of range")
    if kind in _REGULAR:
        kind = DIRECTORY if name.endswith(b"/") else FILE
    if kind in _EMPTY:
        stored = 0
    if not 0 <= nanoseconds < _LAST_SECOND * 1_000_000_000:
        nanoseconds = 0
    device = (0, 0)
    if kind in (CHARACTER_DEVICE, BLOCK_DEVICE):
        device = (_number(major, "device"), _number(minor, "device"))
    permissions = _number(mode, "mode") & 0o7777
    return (
        Entry(name, kind, permissions, *owner, stored, nanoseconds, target, device, xattrs, None),
        stored,
    )


@functools.lru_cache(maxsize=4096)  # modes, owners and times of a layer are few
def _number(field: bytes, what: str) -> int:
    """Octal digits, or base-256 as GNU writes what has no room as octal. Never negative."""
    if field[0] & 0x80:
        if field[0] & 0x40:  # negative: a time before 1970 is the one place where that has sense
            return -1 if what == "mtime" else _refuse(field, what)
        return int.from_bytes(field, "big") & ((1 << (8 * len(field) - 1)) - 1)
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    if not digits.isdigit():
        return _refuse(field, what)
    try:
        return int(digits, 8)
    except ValueError:
        return _refuse(field, what)


def _refuse(field: bytes, what: str) -> int:
    raise LayerMalformed(f"a header's {what} is {field!r}, which is no number")


def _records(data: bytes, extended: dict[bytes, bytes]) -> None:
    """pax: "<length> <key>=<value>\\n", the length counting itself (POSIX pax, Extended Header)."""
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 8)
        length = data[position:space] if space > 0 else b""
        end = position + int(length) if length.isdigit() else 0
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key or end > len(data) or data[end - 1 : end] != b"\n":
            raise LayerMalformed(f"a pax header is malformed at byte {position}")
        if key in sparse.REPEATED_KEYS:  # 0.0 spells its map in pairs of records of the same names
            extended[b"GNU.sparse.map"] = extended.get(b"GNU.sparse.map", b"") + value + b","
        else:
            extended[key] = value
        position = end


def _decimal(extended: dict[bytes, bytes], key: bytes, default: int) -> int:
    value = extended.get(key)
    return sparse.decimal(value) if value else default


def _nanoseconds(extended: dict[bytes, bytes], default: int) -> int:
    value = extended.get(b"mtime")
    if not value:
        return default
    seconds, _, fraction = value.partition(b".")
    if seconds.startswith(b"-"):
        return -1
    return sparse.decimal(seconds) * 1_000_000_000 + sparse.decimal(fraction[:9].ljust(9, b"0"))
