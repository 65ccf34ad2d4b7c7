"""RunPodSandbox: namespaces and network for a pod, all of it or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cri import trace
from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, NameTaken, WrongState
from cri.rpc import runtime_handlers, sandbox_stop, selinux
from cri.specgen import namespaces
from cri.specgen import sandbox as specgen
from cri.store.index import new_id
from cri.store.sandbox import Sandbox, SandboxMetadata, SandboxState, sandbox_name
from cri.undo import Leftover, Undo
from network.result import Attach
from runtime.selinux.relabel import XATTR

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cri.rpc.services import Services
    from runtime.lifecycle import SandboxHandles, SandboxRequest

_NODE_HOSTS, _NODE_RESOLV_CONF = Path("/etc/hosts"), Path("/etc/resolv.conf")


async def run_pod_sandbox(
    services: Services, request: api.RunPodSandboxRequest
) -> api.RunPodSandboxResponse:
    """A request for a pod which is being made, or is there, gets that one's id."""
    runtime_handlers.check(services, request.runtime_handler)
    specgen.check(request.config)
    _require_user_namespaces(services, request)
    name = sandbox_name(request.config.metadata)
    sandbox_id = await services.flights.join(f"sandbox {name}", lambda: _once(services, request))
    return api.RunPodSandboxResponse(pod_sandbox_id=sandbox_id)


def _require_user_namespaces(services: Services, request: api.RunPodSandboxRequest) -> None:
    options = request.config.linux.security_context.namespace_options
    if namespaces.user_map(options, "config") is None:
        return
    if not services.handlers[request.runtime_handler].user_namespaces:
        raise InvalidRequest(
            "config.linux.security_context.namespace_options.userns_options",
            f"the runtime handler {request.runtime_handler!r} runs a program, which is given no "
            "user namespace: use the embedded runtime, or hostUsers: true",
        )
    refusal = services.runtime.user_namespace_refusal
    if refusal:
        raise WrongState(f"this node can't give a pod a user namespace: {refusal}")


async def _once(services: Services, request: api.RunPodSandboxRequest) -> str:
    existing = services.store.sandboxes.named(sandbox_name(request.config.metadata))
    if existing is None:
        return await _make(services, request)
    if existing.status.state is SandboxState.INITIALIZING:  # and nobody is making it any more
        await sandbox_stop.release(services, existing.id)
        services.store.sandboxes.remove(existing.id)
        return await _make(services, request)
    if existing.status.state is SandboxState.READY and existing.config == request.config:
        return existing.id
    raise NameTaken(
        f"sandbox {existing.id} has this name, uid and attempt already "
        f"and is {existing.status.state}: remove it, or ask for another attempt"
    )


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that can be known before anything exists."""

    request: SandboxRequest
    files: Mapping[str, str]
    sandbox: Sandbox


def _plan(services: Services, request: api.RunPodSandboxRequest, sandbox_id: str) -> _Plan:
    config = request.config
    node = _node()
    config_ = services.config
    defaults = specgen.Defaults(
        config_.containers, config_.cgroup.parent, systemd=services.runtime.systemd
    )
    labels = selinux.pod_labels(services, config)
    label = labels.mount_text
    wanted = replace(
        specgen.request(sandbox_id, config, defaults, node),
        mount_label=label,
        process_label=labels.process_text,
    )
    own_network = wanted.network == "pod"
    netns_path = f"{services.config.netns_dir}/cni-{sandbox_id}" if own_network else ""
    metadata = SandboxMetadata(
        id=sandbox_id,
        runtime_handler=request.runtime_handler,
        netns_path=netns_path,
        cgroup_parent=wanted.cgroup_parent,
        mount_label=label,
    )
    return _Plan(wanted, specgen.files(config, node), Sandbox(metadata, config))


def _node() -> specgen.Node:
    return specgen.Node(os.uname().nodename, _read(_NODE_HOSTS), _read(_NODE_RESOLV_CONF))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


async def _make(services: Services, request: api.RunPodSandboxRequest) -> str:
    sandbox_id = new_id()
    trace.about(sandbox_id=sandbox_id)

    def keep(leftovers: tuple[Leftover, ...]) -> None:
        reason = "; ".join(map(str, leftovers))
        services.store.sandboxes.update(
            sandbox_id, lambda status: status.to(SandboxState.NOTREADY, reason=reason)
        )

    async with services.locks.hold(sandbox_id):
        plan = _plan(services, request, sandbox_id)
        with trace.stage("record"):  # without a pause after the plan: nobody else takes its level
            services.store.sandboxes.add(plan.sandbox)
        undo = Undo(f"run sandbox {sandbox_id}", on_leftovers=keep)
        try:
            async with undo:
                await _build(services, plan, undo)
                undo.commit()
        except BaseException:
            if not undo.leftovers:
                services.store.sandboxes.remove(sandbox_id)
            raise
    return sandbox_id


async def _build(services: Services, plan: _Plan, undo: Undo) -> None:
    metadata = plan.sandbox.metadata
    undo.push(
        "remove the sandbox's processes and namespaces",
        services.runtime.remove_sandbox,
        metadata.id,
        cgroup_parent=metadata.cgroup_parent,
    )
    with trace.stage("write files"):
        _write_files(services.paths.monitor(metadata.id), plan)
    with trace.stage("create sandbox"):
        handles = await services.runtime.create_sandbox(plan.request)
    ips: tuple[str, ...] = ()
    if plan.request.network == "pod":
        undo.push("detach the network", services.network.detach, metadata.id)
        ips = await _attach(services, plan.sandbox, handles)
    trace.merge((stage.name, stage.start, stage.duration) for stage in handles.stages)
    if services.handlers[metadata.runtime_handler].config.makes_sandboxes:
        from cri.rpc import sandbox_shim  # few nodes have such shims

        with trace.stage("make the shim's sandbox"):
            await sandbox_shim.make(services, plan.sandbox, plan.request)
    if plugins := services.plugins:
        made = plan.sandbox.status.made(pid=handles.pid, ips=ips)
        await plugins.run_pod(replace(plan.sandbox, status=made), undo)
    with trace.stage("record ready"):
        services.store.sandboxes.update(
            metadata.id, lambda status: status.made(pid=handles.pid, ips=ips)
        )


async def _attach(services: Services, sandbox: Sandbox, handles: SandboxHandles) -> tuple[str, ...]:
    try:
        pod = sandbox.config.metadata
        attach = Attach(
            sandbox_id=sandbox.id,
            netns_fd=handles.netns_fd,
            netns_path=handles.netns_path,
            netlink_fd=handles.netlink_fd,
            name=pod.name,
            namespace=pod.namespace,
            uid=pod.uid,
            ports=specgen.ports(sandbox.config),
        )
        with trace.stage("attach network"):
            result = await services.network.attach(attach)
    finally:
        os.close(handles.netns_fd)
        os.close(handles.netlink_fd)
    trace.merge(result.stages)
    return result.ips


def _write_files(directory: Path, plan: _Plan) -> None:
    """What the pod's containers get as /etc/hosts and so on; in a tmpfs of ours.

    They belong to the pod's root, and have the label of the pod's files.
    """
    users, label = plan.request.user_map, plan.request.mount_label
    directory.mkdir(mode=0o700, parents=True)
    for name, text in plan.files.items():
        (directory / name).write_text(text, encoding="utf-8")
        if users is not None:
            os.chown(directory / name, users.uid, users.gid)
        if label:
            os.setxattr(directory / name, XATTR, label.encode())
