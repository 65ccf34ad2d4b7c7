"""The certificate with which streams are served; read again when its files change."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
_REMEDY = "mend tls_cert_file, tls_key_file or client_ca_file of [streaming], or the file"


class CantServe(Exception):
    """Streams can't be served as configured; the text says why."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files. client_ca: clients must have a certificate of it; None: they need none."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class Certificate:
    """A TLS context, kept in agreement with the files from which it was made."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen: tuple[bytes, bytes] = (b"", b"")
        self.context = _empty_context()

    async def load(self) -> None:
        """For the first time. Raises CantServe."""
        try:
            self._seen = await asyncio.to_thread(self._read)
            if self._files.client_ca is not None:
                authority = await asyncio.to_thread(self._files.client_ca.read_text)
                self.context.load_verify_locations(cadata=authority)
                self.context.verify_mode = ssl.CERT_REQUIRED
            _load(self.context, *self._seen)
        except OSError as error:  # ssl.SSLError is one, and knows no file
            what = error.filename or f"{self._files.certificate} with {self._files.key}"
            why = "no PEM that fits" if isinstance(error, ssl.SSLError) else error.strerror
            raise CantServe(f"streaming: {what}: {why}: {_REMEDY}") from error
        except ValueError as error:
            raise CantServe(f"streaming: {self._files.client_ca}: {error}: {_REMEDY}") from error

    async def follow(self) -> None:
        """Look now and then, for ever. A pair that does not fit changes nothing."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> bool:
        """Read the files; whether there is a new certificate. New connections get it."""
        try:
            found = await asyncio.to_thread(self._read)
            if found == self._seen:
                return False
            _load(_empty_context(), *found)
        except (OSError, ValueError) as error:
            log.warning(
                "streaming: the certificate is not read again, the old one stays: %s", error
            )
            return False
        self._seen = found
        _load(self.context, *found)
        log.info("streaming: new certificate from %s", self._files.certificate)
        return True

    def _read(self) -> tuple[bytes, bytes]:
        return self._files.certificate.read_bytes(), self._files.key.read_bytes()


def _empty_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """What was read, and not what lies in the files by now: the two must fit."""
    with _file(certificate) as certificate_path, _file(key) as key_path:
        context.load_cert_chain(certificate_path, key_path, password="")  # never ask a terminal


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[str]:
    """OpenSSL takes paths alone."""
    with open(os.memfd_create("podwright"), "wb", buffering=0) as file:
        file.write(content)
        yield f"/proc/self/fd/{file.fileno()}"
