"""ExecSync: a command in a running container, to its end or its time limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest
from cri.rpc.running import running, unless_ended
from runtime.lifecycle import ExecRequest

if TYPE_CHECKING:
    from cri.rpc.services import Services


async def exec_sync(services: Services, request: api.ExecSyncRequest) -> api.ExecSyncResponse:
    """At most 16 MiB of each stream; what is more is thrown away (CVE-2022-1708).

    Raises ExecTimedOut: a probe that gets DEADLINE_EXCEEDED has failed, with any other code it is
    unknown. The command and all that it started are dead then.
    """
    if not request.cmd or not request.cmd[0]:
        raise InvalidRequest("cmd", "empty: which command?")
    if request.timeout < 0:
        raise InvalidRequest("timeout", f"{request.timeout} s: must be 0 (no limit) or more")
    container = running(services, request.container_id)
    wanted = ExecRequest(
        sandbox_id=container.metadata.sandbox_id,
        container_id=container.id,
        args=tuple(request.cmd),
        timeout=float(request.timeout),
    )
    with unless_ended(container), trace.stage("exec"):
        result = await services.runtime.exec(wanted)
    return api.ExecSyncResponse(
        stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code
    )
