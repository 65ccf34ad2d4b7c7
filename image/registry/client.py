"""The reads of the distribution specification: what a name resolves to, a manifest, a blob.

Each goes to the endpoints in their order (mirrors, then the registry) until one has it.
Blocking; used in worker processes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final, TypeVar

from image.digest import Digest, Verifier
from image.errors import DigestMismatch, UnsupportedImage
from image.manifest import INDEXES, MANIFEST_LIMIT, MANIFESTS
from image.reference import Reference
from image.registry.credentials import Credentials
from image.registry.errors import Failure, fault
from image.registry.mirrors import Endpoint, endpoints
from image.registry.session import Refused, Session
from image.registry.transport import Transport, Unreachable
from image.settings import RegistrySettings

_ACCEPT: Final = {"Accept": ", ".join((*MANIFESTS, *INDEXES))}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a reference stands for. data: the manifest or index; None: it was known already."""

    digest: Digest
    media_type: str
    data: bytes | None


class Client:
    """The endpoints of one repository. sleep: how to wait between tries, in seconds."""

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials,
        settings: RegistrySettings,
        transport: Transport,
        sleep: Callable[[float], None],
    ) -> None:
        self.reference = reference
        self._sleep = sleep
        self._dead: list[str] = []
        found = endpoints(reference.host, settings)
        # A mirror is a short cut: it gets one more chance, not all the patience.
        hasty = replace(settings, attempts=min(settings.attempts, 2))
        self._sessions = [
            Session(
                endpoint,
                reference.repository,
                _credentials(credentials, reference.host, endpoint),
                settings if endpoint is found[-1] else hasty,
                transport,
                sleep,
            )
            for endpoint in found
        ]

    @property
    def authorizations(self) -> dict[str, str]:
        """Authorization header by endpoint URL: what another client can go on with."""
        return {s.endpoint.url: s.authorization for s in self._sessions if s.authorization}

    @property
    def dead(self) -> tuple[str, ...]:
        """URLs of endpoints that did not answer, though another did."""
        return tuple(self._dead)

    def go_on(self, authorizations: Mapping[str, str], dead: Collection[str]) -> None:
        """Begin with what another client of this repository found out."""
        for session in self._sessions:
            session.authorization = authorizations.get(session.endpoint.url, "")
        self._sessions = [s for s in self._sessions if s.endpoint.url not in dead]

    def drop_mirrors(self) -> bool:
        """Ask the registry itself from now on; whether that makes a difference."""
        before = len(self._sessions)
        self._sessions = [s for s in self._sessions if s.endpoint.upstream]
        return 0 < len(self._sessions) < before

    def resolve(self, known: Callable[[Digest], bool]) -> Resolved:
        """What the reference stands for now; asks the registry even if we have it already.

        known: whether the manifest of a digest need not be sent. Raises DigestMismatch and the
        faults of registries.
        """
        pinned = self.reference.digest is not None

        def usable(endpoint: Endpoint) -> bool:
            return endpoint.resolve or (pinned and endpoint.pull)

        def one(session: Session) -> Resolved:
            return self._resolve(session, known)

        return self._first(str(self.reference), usable, one)

    def _resolve(self, session: Session, known: Callable[[Digest], bool]) -> Resolved:
        """HEAD first: registries with rate limits count only GETs."""
        reference = self.reference
        name = str(reference.digest or reference.tag)
        try:
            with closing(session.send("HEAD", f"manifests/{name}", _ACCEPT)) as response:
                stated = response.header("Docker-Content-Digest")
                digest = reference.digest or (Digest.parse(stated) if stated else None)
                media_type = response.header("Content-Type")
        except (Refused, ValueError):
            digest, media_type = None, ""  # GET gives the reason, in words
        if digest is not None and known(digest):
            return Resolved(digest, media_type, None)
        return self._manifest(session, str(digest or name), digest)

    def manifest(self, digest: Digest) -> Resolved:
        """A manifest by digest, verified. Raises DigestMismatch and the faults of registries."""

        def one(session: Session) -> Resolved:
            return self._manifest(session, str(digest), digest)

        return self._first(f"{self.reference.name}@{digest}", lambda end: end.pull, one)

    def _manifest(self, session: Session, name: str, digest: Digest | None) -> Resolved:
        what = f"{self.reference.name}@{name}" if digest else f"{self.reference}"
        media_type, data = session.read(f"manifests/{name}", _ACCEPT, MANIFEST_LIMIT)
        if media_type.lower().startswith("text/html"):
            text = "it answered with a page and no manifest: is a proxy in between, or no registry?"
            raise Refused(session.failure(0, text))
        if len(data) > MANIFEST_LIMIT:
            raise UnsupportedImage(f"{what}: its manifest is larger than {MANIFEST_LIMIT} bytes")
        if digest is None:
            return Resolved(Digest.of(data), media_type, data)
        verifier = Verifier(f"{what} from {session.endpoint}", digest)
        verifier.update(data)
        verifier.verify()
        return Resolved(digest, media_type, data)

    def _first(
        self, what: str, usable: Callable[[Endpoint], bool], ask: Callable[[Session], T]
    ) -> T:
        """The answer of the first endpoint that has one."""
        failures: list[Failure] = []
        for session in self._sessions:
            if not usable(session.endpoint):
                continue
            try:
                return ask(session)
            except Refused as refused:
                failures.append(refused.failure)
                if not refused.failure.status:
                    self._dead.append(session.endpoint.url)
            except DigestMismatch:
                if session is self._sessions[-1]:
                    raise
                failures.append(session.failure(0, "what it sent has another digest"))
        raise fault(what, failures or [_nobody(what)])

    def blob(self, digest: Digest, size: int) -> Iterator[bytes]:
        """The bytes of a blob as they come, unverified.

        A connection that breaks is taken up again where it broke, and at the next endpoint if need
        be: content with one digest is the same everywhere. Raises the faults of registries.
        """
        what = f"{self.reference.name}, blob {digest}"
        failures: list[Failure] = []
        done = 0
        for session in self._sessions:
            if not session.endpoint.pull:
                continue
            stalls = 0
            while stalls < session.attempts:
                before = done
                try:
                    for chunk in _blob(session, digest, done):
                        done += len(chunk)
                        yield chunk
                    if done >= size:
                        return
                    failure = session.failure(0, f"it ended after {done} of {size} bytes")
                except Refused as refused:
                    failure = refused.failure
                    break
                except Unreachable as error:
                    failure = session.failure(0, str(error))
                stalls = stalls + 1 if done == before else 0
                self._sleep(session.delay(stalls))
            failures.append(failure)
        raise fault(what, failures or [_nobody(what)])


def _blob(session: Session, digest: Digest, start: int) -> Iterator[bytes]:
    """The bytes from `start` on; from a server that knows no ranges, the first are passed over."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    with closing(session.send("GET", f"blobs/{digest}", headers)) as response:
        surplus = start
        if response.status == 206:
            answered = response.header("Content-Range")
            if not answered.startswith(f"bytes {start}-"):
                raise Unreachable(f"asked for bytes from {start}, it sent {answered!r}")
            surplus = 0
        for chunk in response.chunks():
            if surplus >= len(chunk):
                surplus -= len(chunk)
                continue
            yield chunk[surplus:]
            surplus = 0


def _credentials(credentials: Credentials, host: str, endpoint: Endpoint) -> Credentials:
    """A registry's secrets are for the registry; a mirror gets what names the mirror."""
    if endpoint.upstream:
        return credentials.for_host(host)
    return credentials.for_host(endpoint.host) if credentials.server_address else Credentials()


def _nobody(what: str) -> Failure:
    return Failure(what, True, 0, "no endpoint of its hosts.toml may be pulled from")  # noqa: FBT003
