"""What a registry's refusal means: OCI error JSON and status codes -> faults of `image.errors`.

Every message says which host was asked, as whom, and what it answered in its own words; whoever
reads it knows whether the name, the secret, the mirror or the network is at fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from image.document import Document
from image.errors import (
    ImageFault,
    ManifestUnknown,
    RegistryBusy,
    RegistryDenied,
    RegistryUnavailable,
)

BODY_LIMIT: Final = 64 << 10  # bytes of an error's body that are worth reading


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one endpoint did not give us what we wanted.

    status: HTTP status, 0 when there was no answer; text: the registry's words, or the transport's.
    retry_after: seconds; user: "" for anonymous.
    """

    endpoint: str
    upstream: bool
    status: int
    text: str
    user: str = ""
    retry_after: float = 0.0

    def __str__(self) -> str:
        role = "" if self.upstream else " (mirror)"
        user = f"as {self.user}" if self.user else "anonymously"
        answered = f"{self.status} {self.text}".strip() if self.status else self.text
        return f"{self.endpoint}{role}, asked {user}: {answered}"


def words(body: bytes) -> str:
    """The errors of an OCI error document, "CODE: message (detail)"; the first line of others."""
    try:
        document = Document.parse(body, "error")
        errors = list(document.get("errors").items())
        texts = [_one(error) for error in errors] or [document.get("details").text()]
        return "; ".join(text for text in texts if text)
    except ValueError:
        line = body.decode("utf-8", "replace").strip().partition("\n")[0][:200]
        return "" if line.startswith("<") else line


def _one(error: Document) -> str:
    code, message = error.get("code").text(), error.get("message").text()
    detail = error.get("detail").value
    text = ": ".join(part for part in (code, message) if part)
    return f"{text} ({detail})"[:400] if detail and isinstance(detail, str) else text[:400]


def fault(what: str, failures: Sequence[Failure]) -> ImageFault:
    """The one error for all endpoints that were tried; the last, the registry itself, decides:
    what a mirror lacks or refuses says nothing of the registry.
    """
    tried = "; ".join(str(failure) for failure in failures)
    text = f"{what}: {tried}"
    decisive = failures[-1]
    if decisive.status in (401, 403):
        unauthenticated = decisive.status == 401
        hint = "" if decisive.user else "; no credentials were given for it"
        return RegistryDenied(text + hint, unauthenticated)
    if decisive.status == 404:
        return ManifestUnknown(text)
    if decisive.status == 429:
        return RegistryBusy(text, decisive.retry_after)
    return RegistryUnavailable(text)
