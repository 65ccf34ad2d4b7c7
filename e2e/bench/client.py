"""Talk CRI to a runtime as kubelet does: the same requests to each, and the time of every call."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from cri.api import api_pb2 as api
from e2e.bench import images
from e2e.bench.runtimes import Runtime

WORKLOAD = ("/bin/sleep", "1000000")
TIMEOUT = 120.0

_Answer = TypeVar("_Answer", bound=Message)
_MASKED = (
    "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
)  # fmt: skip
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")
_ENVIRONMENT = {
    "PATH": "/bin", "KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
    "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1", "KUBERNETES_PORT_443_TCP_PORT": "443",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
}  # fmt: skip


class NotImplementedByRuntime(Exception):
    """The runtime answers UNIMPLEMENTED: the row stays empty."""


@dataclass(slots=True)
class Pod:
    """A pod of one container; `milliseconds` says how long each call on it took, by RPC name."""

    name: str
    config: api.PodSandboxConfig
    sandbox_id: str = ""
    container_id: str = ""
    milliseconds: dict[str, float] = field(default_factory=dict)


class Client:
    """Blocking calls to one runtime; safe to use from many threads."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._numbers = itertools.count()
        self._channel = grpc.insecure_channel(
            f"unix://{runtime.address}", options=[("grpc.max_receive_message_length", 64 << 20)]
        )
        self._files = runtime.directory / "pod-files"
        self._files.mkdir(exist_ok=True)

    def close(self) -> None:
        self._channel.close()

    def call(
        self, rpc: str, request: Message, answer: type[_Answer], *, service: str = "Runtime"
    ) -> _Answer:
        """One RPC.

        Raises NotImplementedByRuntime, or RuntimeError naming the runtime, the RPC, its answer.
        """
        method: Callable[..., _Answer] = self._channel.unary_unary(
            f"/runtime.v1.{service}Service/{rpc}", _serialize, answer.FromString
        )
        try:
            return method(request, timeout=TIMEOUT)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise NotImplementedByRuntime(rpc) from error
            text = f"{self.runtime.name}: {rpc} fails: {error.code().name}: {error.details()}"
            raise RuntimeError(text) from error

    def start_pod(self, command: tuple[str, ...] = WORKLOAD) -> Pod:
        """RunPodSandbox, CreateContainer, StartContainer."""
        name = f"{self.runtime.name.replace('+', '-')}-{next(self._numbers)}"
        pod = Pod(name, self._sandbox_config(name))
        container = self._container_config(name, command)
        run = api.RunPodSandboxRequest(config=pod.config, runtime_handler=self.runtime.handler)
        pod.sandbox_id = self._timed(
            pod, "RunPodSandbox", run, api.RunPodSandboxResponse
        ).pod_sandbox_id
        create = api.CreateContainerRequest(
            pod_sandbox_id=pod.sandbox_id, config=container, sandbox_config=pod.config
        )
        pod.container_id = self._timed(
            pod, "CreateContainer", create, api.CreateContainerResponse
        ).container_id
        start = api.StartContainerRequest(container_id=pod.container_id)
        self._timed(pod, "StartContainer", start, api.StartContainerResponse)
        return pod

    def end_pod(self, pod: Pod) -> None:
        """StopContainer without grace, RemoveContainer, StopPodSandbox, RemovePodSandbox."""
        container, sandbox = pod.container_id, pod.sandbox_id
        stop = api.StopContainerRequest(container_id=container, timeout=0)
        self._timed(pod, "StopContainer", stop, api.StopContainerResponse)
        remove = api.RemoveContainerRequest(container_id=container)
        self._timed(pod, "RemoveContainer", remove, api.RemoveContainerResponse)
        stop_sandbox = api.StopPodSandboxRequest(pod_sandbox_id=sandbox)
        self._timed(pod, "StopPodSandbox", stop_sandbox, api.StopPodSandboxResponse)
        remove_sandbox = api.RemovePodSandboxRequest(pod_sandbox_id=sandbox)
        self._timed(pod, "RemovePodSandbox", remove_sandbox, api.RemovePodSandboxResponse)

    def exec(self, pod: Pod, *command: str) -> api.ExecSyncResponse:
        request = api.ExecSyncRequest(container_id=pod.container_id, cmd=command, timeout=20)
        return self._timed(pod, "ExecSync", request, api.ExecSyncResponse)

    def pull(self, reference: str) -> None:
        request = api.PullImageRequest(image=api.ImageSpec(image=reference))
        self.call("PullImage", request, api.PullImageResponse, service="Image")

    def remove_image(self, reference: str) -> None:
        request = api.RemoveImageRequest(image=api.ImageSpec(image=reference))
        self.call("RemoveImage", request, api.RemoveImageResponse, service="Image")

    def log_path(self, pod: Pod) -> Path:
        return Path(pod.config.log_directory) / "main.log"

    def _timed(self, pod: Pod, rpc: str, request: Message, answer: type[_Answer]) -> _Answer:
        begin = time.perf_counter()
        result = self.call(rpc, request, answer)
        pod.milliseconds[rpc] = (time.perf_counter() - begin) * 1e3
        return result

    def _sandbox_config(self, name: str) -> api.PodSandboxConfig:
        logs = self.runtime.directory / "logs" / name
        logs.mkdir(parents=True)
        security = api.LinuxSandboxSecurityContext(
            namespace_options=api.NamespaceOption(network=api.POD, pid=api.CONTAINER, ipc=api.POD),
            seccomp=api.SecurityProfile(profile_type=api.SecurityProfile.RuntimeDefault),
        )
        return api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, namespace="bench", uid=name, attempt=0),
            hostname=name,
            log_directory=str(logs),
            dns_config=api.DNSConfig(
                servers=["10.96.0.10"], searches=["cluster.local"], options=["ndots:5"]
            ),
            labels={"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "bench"},
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=self.runtime.group.pods, security_context=security
            ),
        )

    def _container_config(self, name: str, command: tuple[str, ...]) -> api.ContainerConfig:
        hosts, termination = self._files / f"{name}.hosts", self._files / f"{name}.termination"
        hosts.write_text("127.0.0.1 localhost\n")
        termination.touch()
        security = api.LinuxContainerSecurityContext(
            namespace_options=api.NamespaceOption(network=api.POD, pid=api.CONTAINER, ipc=api.POD),
            seccomp=api.SecurityProfile(profile_type=api.SecurityProfile.RuntimeDefault),
            masked_paths=_MASKED,
            readonly_paths=_READ_ONLY,
        )
        resources = api.LinuxContainerResources(
            cpu_period=100_000, cpu_shares=102, memory_limit_in_bytes=256 << 20, oom_score_adj=999
        )
        return api.ContainerConfig(
            metadata=api.ContainerMetadata(name="main"),
            image=api.ImageSpec(image=images.BUSYBOX),
            command=command,
            envs=[
                api.KeyValue(key=key, value=value.encode()) for key, value in _ENVIRONMENT.items()
            ],
            mounts=[
                api.Mount(container_path="/etc/hosts", host_path=str(hosts)),
                api.Mount(container_path="/dev/termination-log", host_path=str(termination)),
            ],
            labels={"io.kubernetes.container.name": "main"},
            log_path="main.log",
            linux=api.LinuxContainerConfig(resources=resources, security_context=security),
        )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
