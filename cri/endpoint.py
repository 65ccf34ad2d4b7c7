"""host:port, parsed: where a TCP server of ours listens, and what its clients call it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An address of this node and a port; port 0: any that is free."""

    address: IPAddress
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """127.0.0.1:0, [::1]:10010, localhost:0. Raises ValueError with the remedy."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(
                "must be address:port with a port from 0 (any) to 65535, as 127.0.0.1:0"
            )
        if host == "localhost":
            host = "127.0.0.1"
        bracketed = host.startswith("[") and host.endswith("]")
        try:
            address = ipaddress.ip_address(host[1:-1] if bracketed else host)
        except ValueError:
            raise ValueError(f"{host!r} is no IP address: write 127.0.0.1:0 or [::1]:0") from None
        if (address.version == 6) != bracketed:
            raise ValueError("IPv6 addresses, and they alone, go in brackets: [::1]:0")
        return cls(address, int(port))

    @property
    def loopback(self) -> bool:
        """Whether only this node can reach it."""
        return self.address.is_loopback

    def authority(self, port: int) -> str:
        """host:port for a URL; every address means loopback to a client on this node."""
        if self.address.version == 6:
            return f"[{'::1' if self.address.is_unspecified else self.address}]:{port}"
        return f"{'127.0.0.1' if self.address.is_unspecified else self.address}:{port}"
