"""A container that may trace others starts when nobody is being prepared in its sight any more.

Who is prepared while no such container is there comes into the pod's sight at once, with the
monitor's descriptors and the node's files still his (see `runtime.init.namespaces.be_born`), and
whoever he is in sight of already may stop him there by a signal, for as long as he likes. Those who
come later are sheltered, as this one is known.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

from runtime.errors import InitFailed
from runtime.linux import fds

if TYPE_CHECKING:
    from runtime.monitor.container import Answer, Container
    from runtime.monitor.pod import Pod

PATIENCE = 20.0  # seconds; to be prepared takes milliseconds
_PAUSE = 0.005


class Turn:
    """Waits, then starts the container; or says why not."""

    def __init__(
        self, pod: Pod, container: Container, descriptors: list[int], answer: Answer
    ) -> None:
        """descriptors: as Container.start has them; the caller's to close."""
        self._pod = pod
        self._container = container
        self._answer = answer
        self._descriptors = [os.dup(fd) for fd in descriptors]
        self._deadline = time.monotonic() + PATIENCE
        self._look()

    def _look(self) -> None:
        exposed, unwanted = self._pod.exposed, self._container.unwanted
        if exposed and not unwanted and time.monotonic() < self._deadline:
            self._pod.loop.after(_PAUSE, self._look)
            return
        refusal = None
        if unwanted:
            refusal = InitFailed("turn", errno.ECANCELED, "it is being removed")
        elif exposed:
            text = "it may trace others, of whom one is being started and does not get on"
            refusal = InitFailed("turn", errno.EBUSY, text)
        try:
            self._container.start(self._descriptors, self._answer, refusal)
        finally:
            fds.close_all(self._descriptors)
