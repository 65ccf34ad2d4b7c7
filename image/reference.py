"""The names people give to images: "busybox" is docker.io/library/busybox:latest."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from image.digest import Digest
from image.errors import ReferenceMalformed

# The grammar is that of github.com/distribution/reference, which every registry checks against.
_HOST: Final = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_COMPONENT: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{64}")

DEFAULT_HOST: Final = "docker.io"


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is: host and repository, and which one of them: tag, digest or both."""

    host: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Neither tag nor digest means the tag "latest". Raises ReferenceMalformed."""
        if not text:
            raise ReferenceMalformed(text, "it is empty")
        rest, at, digest_text = text.partition("@")
        digest = _digest(text, digest_text) if at else None
        rest, tag = _split_tag(text, rest)
        host, repository = _split_host(rest)
        _check(text, host, repository)
        if not tag and digest is None:
            tag = "latest"
        return cls(host, repository, tag, digest)

    @property
    def name(self) -> str:
        """host/repository"""
        return f"{self.host}/{self.repository}"

    @property
    def tagged(self) -> str:
        """host/repository:tag, or "" for a reference by digest: what CRI calls a repo tag.

        A reference with both is one by digest: the tag beside it proves nothing.
        """
        return f"{self.name}:{self.tag}" if self.tag and self.digest is None else ""

    def at(self, digest: Digest) -> str:
        """host/repository@digest: what CRI calls a repo digest."""
        return f"{self.name}@{digest}"

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"


def _digest(text: str, digest_text: str) -> Digest:
    try:
        return Digest.parse(digest_text)
    except ValueError as error:
        raise ReferenceMalformed(text, str(error)) from None


def _split_tag(text: str, rest: str) -> tuple[str, str]:
    """A colon after the last slash starts a tag; one before it a port."""
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    if colon < 0:
        return rest, ""
    tag = rest[colon + 1 :]
    if not _TAG.fullmatch(tag):
        reason = f"the tag {tag!r} must be 1 to 128 of letters, digits, '_', '.', '-'"
        raise ReferenceMalformed(text, reason)
    return rest[:colon], tag


def _split_host(rest: str) -> tuple[str, str]:
    """The first component is a host if it looks like one, as Docker has always guessed it."""
    first, slash, others = rest.partition("/")
    looks_like_host = (
        any(c in first for c in ".:[") or first == "localhost" or first != first.lower()
    )
    host, repository = (first, others) if slash and looks_like_host else (DEFAULT_HOST, rest)
    if host in {"index.docker.io", "registry-1.docker.io"}:
        host = DEFAULT_HOST
    if host == DEFAULT_HOST and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository


def _check(text: str, host: str, repository: str) -> None:
    if not _HOST.fullmatch(host):
        raise ReferenceMalformed(text, f"{host!r} is no host name")
    for component in repository.removeprefix("library/").split("/"):
        if not _COMPONENT.fullmatch(component):
            reason = f"{component!r} must be lower-case letters and digits, parted by '.', '_', '-'"
            raise ReferenceMalformed(text, reason)
    if len(repository) > 255:
        raise ReferenceMalformed(text, "the repository is longer than 255 characters")
    if _IDENTIFIER.fullmatch(repository.removeprefix("library/")):
        raise ReferenceMalformed(text, "64 hex digits are an image id, not a name")
