"""Containers that run, for requests that are about nothing else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from cri.errors import WrongState
from cri.store.container import ContainerState
from runtime.errors import ContainerNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cri.rpc.services import Services
    from cri.store.container import Container


def running(services: Services, container_id: str) -> Container:
    """Raises ContainerNotFound, WrongState."""
    container = services.store.containers.get(container_id)
    if container.status.state is not ContainerState.RUNNING:
        raise WrongState(f"container {container.id} is {container.status.state}, not running")
    return container


@contextlib.contextmanager
def unless_ended(container: Container) -> Iterator[None]:
    """Around what the runtime is asked to do in a container, which may have ended meanwhile.

    Raises WrongState then.
    """
    try:
        yield
    except ContainerNotFound as error:
        raise WrongState(f"container {container.id} has ended") from error
