"""Files that the configuration names: certificates for streams, and hosts.toml of registries."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

from cri.cli.checks.finding import Finding, Place, fail, ok, warn
from cri.streaming.tls import CantServe, Certificate, TlsFiles
from image.errors import RegistryUnavailable
from image.registry import mirrors
from image.settings import RegistrySettings

_PORT = re.compile(r"(.*)_(\d+)_")  # how containerd's layout may write host:port


def certificate(place: Place) -> Iterator[Finding]:
    """Streams can be served, where they are to be by TLS."""
    streaming = place.config.streaming
    if not streaming.tls_cert_file:
        return
    authority = Path(streaming.client_ca_file) if streaming.client_ca_file else None
    files = TlsFiles(Path(streaming.tls_cert_file), Path(streaming.tls_key_file), authority)
    try:
        asyncio.run(Certificate(files).load())
    except CantServe as error:
        remedy = "mend [streaming] tls_cert_file, tls_key_file, client_ca_file: no daemon starts"
        yield fail("streams", str(error), remedy)
    else:
        yield ok("streams", f"by TLS at {streaming.address}")


def registries(place: Place) -> Iterator[Finding]:
    """Every hosts.toml can be read, with the certificates that it names."""
    images = place.config.images
    settings = RegistrySettings(hosts_dir=images.hosts_dir, insecure_hosts=images.insecure_hosts)
    found = sorted(Path(images.hosts_dir).glob("*/hosts.toml")) if images.hosts_dir else []
    hosts = [_PORT.sub(r"\1:\2", path.parent.name) for path in found]
    good = []
    for host, path in zip(hosts, found, strict=True):
        try:
            problems = _unreadable(mirrors.endpoints(host, settings))
        except RegistryUnavailable as error:
            problems = [str(error)]
        for problem in problems:
            yield warn("registries", problem, f"mend {path}: nothing is pulled from {host}")
        good += [] if problems else [host]
    where = images.hosts_dir or "no directory: images.hosts_dir is empty"
    yield ok("registries", f"hosts.toml of {', '.join(good) or 'none'} in {where}")


def _unreadable(endpoints: tuple[mirrors.Endpoint, ...]) -> list[str]:
    """Certificates and keys that can't be read, one sentence each."""
    names = [name for one in endpoints for name in one.tls.ca]
    names += [name for one in endpoints for pair in one.tls.client for name in pair if name]
    return [f"{name} can't be read" for name in names if not os.access(name, os.R_OK)]


CHECKS = (certificate, registries)
