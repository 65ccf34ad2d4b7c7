"""Which endpoints serve a registry's names, and in which order: containerd's hosts.toml.

https://github.com/containerd/containerd/blob/main/docs/hosts.md
"""

from __future__ import annotations

import ipaddress
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from image.document import Document
from image.errors import RegistryUnavailable
from image.reference import DEFAULT_HOST
from image.settings import RegistrySettings

_HUB: Final = "registry-1.docker.io"
_CAPABILITIES: Final = ("pull", "resolve", "push")


@dataclass(frozen=True, slots=True)
class Tls:
    """How far an endpoint's certificate is believed, and ours. ca, client: PEM file names."""

    verify: bool = True
    ca: tuple[str, ...] = ()
    client: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server that may have what we want.

    url: up to and including the API's root ("https://host/v2"), without a trailing slash.
    upstream: the registry itself; False: a mirror, which never sees the registry's credentials.
    namespace: the registry's name, which a mirror for many is told as `?ns=`; "": not to be told.
    """

    url: str
    upstream: bool = True
    namespace: str = ""
    resolve: bool = True
    pull: bool = True
    tls: Tls = Tls()
    headers: tuple[tuple[str, str], ...] = field(default=())

    @property
    def host(self) -> str:
        """host or host:port"""
        return urlsplit(self.url).netloc

    def __str__(self) -> str:
        return self.url.removesuffix("/v2")


def endpoints(host: str, settings: RegistrySettings) -> tuple[Endpoint, ...]:
    """Mirrors first, the registry itself last.

    Raises RegistryUnavailable naming the file and the value when a hosts.toml is wrong.
    """
    own = Endpoint(f"{_scheme(host, settings)}://{_HUB if host == DEFAULT_HOST else host}/v2")
    path = _hosts_file(host, settings.hosts_dir)
    if path is None:
        return (own,)
    try:
        document = Document(tomllib.loads(path.read_text("utf-8")), str(path))
        return _endpoints(document, host, own, path.parent)
    except (ValueError, OSError) as error:
        where = "" if str(path) in str(error) else f"{path}: "
        raise RegistryUnavailable(f"{where}{error}: mend the file, or remove it") from None


def _scheme(host: str, settings: RegistrySettings) -> str:
    return "http" if host in settings.insecure_hosts or _is_loopback(host) else "https"


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _hosts_file(host: str, hosts_dir: str) -> Path | None:
    if not hosts_dir:
        return None
    name, colon, port = host.rpartition(":")
    names = [f"{name}_{port}_"] if colon and port.isdigit() else []
    for folder in (*names, host, "_default"):
        path = Path(hosts_dir) / folder / "hosts.toml"
        if path.is_file():
            return path
    return None


def _endpoints(document: Document, host: str, own: Endpoint, folder: Path) -> tuple[Endpoint, ...]:
    server = document.get("server").text()
    hosts = document.get("host")
    mirrors = [_endpoint(hosts.get(url), url, host, folder) for url in hosts.object()]
    upstream = own
    if server or any(key in document for key in ("ca", "skip_verify", "client", "header")):
        upstream = _endpoint(document, server or str(own), host, folder, upstream=True)
    elif "server" in document:
        return tuple(mirrors)
    return (*mirrors, upstream)


def _endpoint(
    document: Document, url: str, host: str, folder: Path, *, upstream: bool = False
) -> Endpoint:
    parts = urlsplit(url if "://" in url else f"https://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{document.path}: {url!r} is no http or https URL")
    path = parts.path.rstrip("/")
    if not _flag(document, "override_path") and not path.endswith("/v2"):
        path += "/v2"
    capabilities = document.get("capabilities").texts() or _CAPABILITIES
    for capability in capabilities:
        if capability not in _CAPABILITIES:
            known = ", ".join(_CAPABILITIES)
            raise ValueError(f"{document.path}.capabilities: {capability!r} is not one of {known}")
    same = parts.netloc == (_HUB if host == DEFAULT_HOST else host)
    return Endpoint(
        url=f"{parts.scheme}://{parts.netloc}{path}",
        upstream=upstream or same,
        namespace="" if upstream or same else host,
        resolve=upstream or "resolve" in capabilities,
        pull=upstream or "pull" in capabilities,
        tls=Tls(
            verify=not _flag(document, "skip_verify"),
            ca=tuple(str(folder / name) for name in _one_or_more(document.get("ca"))),
            client=_client(document.get("client"), folder),
        ),
        headers=_headers(document.get("header")),
    )


def _flag(document: Document, key: str) -> bool:
    value = document.get(key).value
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"{document.path}.{key}: expected true or false, got {value!r}")
    return bool(value)


def _one_or_more(document: Document) -> tuple[str, ...]:
    return (document.value,) if isinstance(document.value, str) else document.texts()


def _client(document: Document, folder: Path) -> tuple[tuple[str, str], ...]:
    """A PEM with certificate and key, a list of those, or a list of [certificate, key]."""
    if isinstance(document.value, str):
        return ((str(folder / document.value), ""),)
    pairs = []
    for item in document.items():
        names = _one_or_more(item)
        if not 1 <= len(names) <= 2:
            raise ValueError(f"{item.path}: expected a certificate, or a certificate and its key")
        certificate, key = (*names, "")[:2]
        pairs.append((str(folder / certificate), str(folder / key) if key else ""))
    return tuple(pairs)


def _headers(document: Document) -> tuple[tuple[str, str], ...]:
    headers: Mapping[str, object] = document.object()
    return tuple((name, value) for name in headers for value in _one_or_more(document.get(name)))
