"""Sockets that were bound to an address of the old pod: the new one has another, which they get.

Whoever listens on 10.0.0.7 because that was the pod's address is to be reached by its new one; and
a socket of UDP that is connected has an address too, though nobody has asked for it.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from runtime.checkpoint.wire import MalformedImage, Message, read, write

if TYPE_CHECKING:
    from runtime.checkpoint.confine import Images

_IMAGE: Final = "files.img"
_INETSK: Final = 4  # the field of a file_entry
_FAMILY, _ADDRESS = 3, 11  # of an inet_sk_entry
_BYTES: Final = {int(socket.AF_INET): 4, int(socket.AF_INET6): 16}
# Nobody has these; the way to them begins with the pod's own address (RFC 5737, RFC 3849).
_ELSEWHERE: Final = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
OwnAddress = Callable[[Address], Address]


def settle(images: Images, own: OwnAddress) -> None:
    """Rewrites the images. own: what an address becomes. Raises MalformedImage."""
    entries = read("files", images.load(_IMAGE))
    changed = [_settle(entry, own) for entry in entries if entry.has(_INETSK)]
    if any(changed):
        images.save(_IMAGE, write("files", entries))


def _settle(entry: Message, own: OwnAddress) -> bool:
    one = entry.message(_INETSK)
    family = one.number(_FAMILY)
    words = one.numbers(_ADDRESS)
    if len(words) * 4 != _BYTES.get(family):
        raise MalformedImage(f"a socket of family {family} with an address of {len(words)} words")
    old = ipaddress.ip_address(struct.pack(f"<{len(words)}I", *words))
    new = own(old)
    if new == old:
        return False
    one.drop(_ADDRESS)
    for word in struct.unpack(f"<{len(words)}I", new.packed):
        one.add(_ADDRESS, word)
    entry.set(_INETSK, one)
    return True


def here(address: Address) -> Address:
    """In the network in which we are: the same if one can be bound to it, else the one by which
    others are reached, if there is one."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        mapped = here(address.ipv4_mapped)
        return ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + mapped.packed)
    if address.is_link_local:
        return address
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                return address
        else:
            return address
        try:
            probe.connect((_ELSEWHERE[family], 9))
        except OSError:
            return address
        return ipaddress.ip_address(probe.getsockname()[0])
