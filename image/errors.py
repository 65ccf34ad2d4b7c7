"""Everything that can go wrong with images, as types that carry data, not gRPC codes.

Every leaf passes its fields on to `Exception`, so that `type(error)(*error.args)` is the same error
again: that is how one crosses from a worker process to the daemon (`image.worker.messages`).
"""

from __future__ import annotations


class ImageFault(Exception):
    """Root of all failures of this package."""


class ImageNotFound(ImageFault):
    """No image of this store answers to `text`."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"image {self.text!r} is not in the store: pull or import it first"


class ReferenceMalformed(ImageFault):
    """`text` is no image reference, because of `reason`."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text, reason)
        self.text = text
        self.reason = reason

    def __str__(self) -> str:
        return f"malformed image reference {self.text!r}: {self.reason}"


class RegistryUnavailable(ImageFault):
    """No endpoint could be reached, or every one of them failed by itself (DNS, TLS, 5xx)."""


class RegistryDenied(ImageFault):
    """401 or 403. unauthenticated: the registry wants to know who asks, or disbelieves it."""

    def __init__(self, text: str, unauthenticated: bool) -> None:  # noqa: FBT001 - must equal args
        super().__init__(text, unauthenticated)
        self.unauthenticated = unauthenticated

    def __str__(self) -> str:
        return str(self.args[0])


class RegistryBusy(ImageFault):
    """429, after all attempts. retry_after: seconds the registry asked for, 0 if it did not say."""

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class ManifestUnknown(ImageFault):
    """The registry answered, and has no such repository, tag, manifest or blob."""


class DigestMismatch(ImageFault):
    """The bytes of `what` are not those that were asked for."""

    def __init__(self, what: str, expected: str, actual: str) -> None:
        super().__init__(what, expected, actual)
        self.what = what
        self.expected = expected
        self.actual = actual

    def __str__(self) -> str:
        return f"{self.what}: expected {self.expected}, got {self.actual}"


class UnsupportedImage(ImageFault):
    """A manifest, index or config that is malformed, or of a kind or platform we can't run."""


class LayerMalformed(ImageFault):
    """A layer is not a tar archive that may be unpacked; the text names entry and reason."""


class CheckpointRefused(ImageFault):
    """A checkpoint can't be written, there or at all: the text says why."""


class AlreadyThere(ImageFault):
    """A file is to be made where there is one."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} is there already: remove it, or choose another name"


class ArchiveMalformed(ImageFault):
    """A file or directory is no OCI layout, no docker archive, or no checkpoint."""


class StorageFull(ImageFault):
    """The file system of `path` has no room left."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"no room left on the file system of {self.path}: {self.reason}"


class PullCancelled(ImageFault):
    """The pull was given up: nobody waits for it any more, or it made no progress for too long."""


class WorkerLost(ImageFault):
    """A worker process ended in the middle of a job (killed for its memory, say)."""
