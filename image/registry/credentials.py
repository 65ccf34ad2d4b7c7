"""What a registry may ask for, in the six fields of CRI's AuthConfig."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, replace

from image.reference import DEFAULT_HOST

# How docker login has always spelled Docker Hub; https://github.com/docker/cli, config/types.
_HUB: frozenset[str] = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """All fields may be empty. auth: base64 of "username:password".

    server_address: the registry they are for (a host, a URL, or ""); others never see them.
    identity_token: a refresh token, exchanged at the registry's token service.
    registry_token: a bearer token, sent as it is.
    """

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        """Never shows a secret: this may end in a log."""
        return f"Credentials(username={self.user!r}, server_address={self.server_address!r})"

    @property
    def user(self) -> str:
        """Who this says it is, for messages; "" if nobody."""
        if self.registry_token or self.identity_token:
            return self.username or "token"
        return self.basic[0]

    @property
    def basic(self) -> tuple[str, str]:
        """User name and password; ("", "") if there are none."""
        if self.username or self.password:
            return self.username, self.password
        try:
            text = base64.b64decode(self.auth, validate=False).decode()
        except (binascii.Error, UnicodeDecodeError):
            return "", ""
        username, _, password = text.strip("\0").partition(":")
        return username, password

    def for_host(self, host: str) -> Credentials:
        """These, if they are meant for `host` ("host" or "host:port"); none otherwise."""
        address = self.server_address.partition("://")[2] or self.server_address
        meant = address.partition("/")[0]
        if not meant or meant == host or (meant in _HUB and host == DEFAULT_HOST):
            return replace(self, server_address=host)
        return Credentials()

    def __bool__(self) -> bool:
        return bool(self.registry_token or self.identity_token or any(self.basic))
