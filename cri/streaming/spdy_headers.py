"""Header blocks of SPDY/3: names and values, compressed by one zlib context a direction. Sans-IO.

A block is a count, then name and value in turn, each behind its length; numbers have four bytes.
Several values of one name are joined by NUL. The zlib stream begins with a preset dictionary and
never ends: a block is what lies between two flushes. (SPDY Protocol, draft 3.1, section 2.6.10.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping

BLOCK_LIMIT = 32 * 1024  # bytes, decompressed: a frame of 16 KiB could hold 16 MiB
HEADERS_LIMIT = 64

# The dictionary of the specification: words behind their length, then text without.
_WORDS = """
options head post put delete trace accept accept-charset accept-encoding accept-language
accept-ranges age allow authorization cache-control connection content-base content-encoding
content-language content-length content-location content-md5 content-range content-type date
etag expect expires from host if-match if-modified-since if-none-match if-range
if-unmodified-since last-modified location max-forwards pragma proxy-authenticate
proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade
user-agent vary via warning www-authenticate method get status 200~OK version HTTP/1.1 url
public set-cookie keep-alive origin
"""
_TEXT = (
    b"1001012012022052063003023033043053063074024054064074084094104114124134144154164175025045"
    b"05203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401"
    b" Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 S"
    b"ervice UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, We"
    b"d, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xm"
    b"l,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdc"
    b"hcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)

DICTIONARY = (
    b"".join(
        len(word).to_bytes(4, "big") + word.replace("~", " ").encode() for word in _WORDS.split()
    )
    + _TEXT
)


class MalformedHeaders(ValueError):
    """A header block that can't be read; the compression is out of step from here on."""


class HeaderWriter:
    """Compresses the header blocks of one direction."""

    def __init__(self) -> None:
        # A window just larger than the dictionary and the least memory: 18 KiB instead of 256.
        self._zlib = zlib.compressobj(zlib.Z_BEST_SPEED, wbits=12, memLevel=2, zdict=DICTIONARY)

    def block(self, headers: Mapping[str, str]) -> bytes:
        """A compressed block. Names are made lower case."""
        parts = [len(headers).to_bytes(4, "big")]
        for name, value in headers.items():
            for text in (name.lower().encode(), value.encode()):
                parts += (len(text).to_bytes(4, "big"), text)
        return self._zlib.compress(b"".join(parts)) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


class HeaderReader:
    """Decompresses the header blocks of one direction."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zdict=DICTIONARY)

    def headers(self, block: bytes) -> dict[str, str]:
        """Names and values of a compressed block. Raises MalformedHeaders."""
        try:
            text = self._zlib.decompress(block, BLOCK_LIMIT)
        except zlib.error as error:
            raise MalformedHeaders(f"header block: {error}") from error
        if self._zlib.unconsumed_tail or len(text) == BLOCK_LIMIT:
            raise MalformedHeaders(f"header block of {BLOCK_LIMIT} bytes or more")
        if self._zlib.eof:
            raise MalformedHeaders("the compressed headers have an end")
        return _parse(text)


def _parse(text: bytes) -> dict[str, str]:
    if (count := int.from_bytes(text[:4], "big")) > HEADERS_LIMIT:
        raise MalformedHeaders(f"{count} headers: more than {HEADERS_LIMIT}")
    strings = list(_strings(text))
    if len(strings) != 2 * count:
        raise MalformedHeaders(f"{count} headers announced, {len(strings) / 2:g} sent")
    headers = dict(zip(strings[::2], strings[1::2], strict=True))
    if len(headers) != count:
        raise MalformedHeaders("a header's name occurs twice")
    if odd := [name for name in headers if not name or name != name.lower()]:
        raise MalformedHeaders(f"header name {odd[0]!r}: not in lower case")
    return headers


def _strings(text: bytes) -> Iterator[str]:
    at = 4
    while at < len(text):
        end = at + 4 + int.from_bytes(text[at : at + 4], "big")
        if end > len(text) or at + 4 > len(text):
            raise MalformedHeaders("header block: a string ends behind it")
        try:
            yield text[at + 4 : end].decode()
        except UnicodeDecodeError as error:
            raise MalformedHeaders("header block: a string that is no UTF-8") from error
        at = end
    if at != len(text) or not text:
        raise MalformedHeaders("header block: cut off")
