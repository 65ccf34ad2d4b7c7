"""Which runtime a sandbox has asked for, among those that this node has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.errors import InvalidRequest, WrongState

if TYPE_CHECKING:
    from cri.rpc.services import Services
    from cri.specgen.handler import RuntimeHandler
    from cri.store.sandbox import Sandbox


def check(services: Services, name: str) -> None:
    """Raises InvalidRequest for a name that is not configured."""
    if name not in services.handlers:
        raise InvalidRequest(
            "runtime_handler",
            f"{name!r} is not configured on this node ([runtime.handlers.{name}]); "
            f"{_known(services)}",
        )


def of(services: Services, sandbox: Sandbox) -> RuntimeHandler:
    """The handler of a sandbox. Raises WrongState if it is no longer configured."""
    name = sandbox.metadata.runtime_handler
    found = services.handlers.get(name)
    if found is None:
        raise WrongState(
            f"sandbox {sandbox.id} has the runtime handler {name!r}, which is no longer configured "
            f"on this node ([runtime.handlers.{name}]); {_known(services)}"
        )
    return found


def _known(services: Services) -> str:
    return f"known: {', '.join(repr(name) for name in services.handlers)}"
