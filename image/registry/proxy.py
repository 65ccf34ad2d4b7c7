"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY, read as Go programs read them."""

from __future__ import annotations

import ipaddress
import os
from urllib.parse import urlsplit


def proxy_for(url: str) -> str:
    """The proxy that a request to `url` goes through, or ""."""
    parts = urlsplit(url)
    proxy = _variable(f"{parts.scheme}_proxy")
    host = parts.hostname or ""
    if not proxy or _bypassed(host, parts.port, _variable("no_proxy")):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(name: str) -> str:
    return os.environ.get(name.upper()) or os.environ.get(name) or ""


def _bypassed(host: str, port: int | None, exceptions: str) -> bool:
    """NO_PROXY: names (and what is below them), addresses, networks; all with a port; "*"."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address and address.is_loopback):
        return True
    for word in exceptions.lower().replace(",", " ").split():
        if word == "*":
            return True
        name, colon, number = word.rpartition(":")
        if colon and number.isdigit() and name.count(":") == 0:
            if int(number) != (port or 0):
                continue
            word = name
        if address is not None and _inside(str(address), word):
            return True
        bare = word.lstrip("*").lstrip(".")
        if bare and (host == bare or host.endswith(f".{bare}")):
            return True
    return False


def _inside(address: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
