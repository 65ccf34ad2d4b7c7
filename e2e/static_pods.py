"""Static pods for the real kubelet: one for each promise, all asked for at once."""

from __future__ import annotations

from pathlib import Path

from e2e.conftest import BUSYBOX
from e2e.kube import Json
from e2e.node import REGISTRY
from e2e.test_limits import EAT

FOREVER = "sleep 1000000"
SERVE = "mkdir -p /tmp/www; echo page > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www"
CHUNKS, CHUNK = 100, 200
CHATTY = f"i=0; while [ $i -lt {CHUNKS} ]; do seq $((i*{CHUNK})) $((i*{CHUNK}+{CHUNK - 1})); "
CHATTY += f"usleep 100000; i=$((i+1)); done; {FOREVER}"
ORDERLY = "trap 'echo term >> /told/order; exit 0' TERM; while :; do usleep 20000; done"
HOST_PORT = 18777


def static_pod(name: str, *containers: Json, **spec: object) -> Json:
    """A manifest. Grace is a second, since a shell as pid 1 passes over SIGTERM."""
    labels = {"app": name}
    made = {"containers": list(containers), "terminationGracePeriodSeconds": 1, **spec}
    metadata = {"name": name, "namespace": "default", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made}


def busybox(script: str, name: str = "main", **fields: object) -> Json:
    """A container that runs a shell script."""
    return {"name": name, "image": BUSYBOX, "command": ["sh", "-c", script], **fields}


def executing(*command: str, **fields: object) -> Json:
    """A probe that runs a command every second."""
    return {"exec": {"command": list(command)}, "periodSeconds": 1, **fields}


def host_path(name: str, path: Path) -> Json:
    return {"name": name, "hostPath": {"path": str(path), "type": "DirectoryOrCreate"}}


def probed(patience: int = 1) -> Json:
    """patience: seconds for a probe."""
    often = {"periodSeconds": 1, "timeoutSeconds": patience}
    return static_pod(
        "probed",
        busybox(
            SERVE,
            startupProbe={"tcpSocket": {"port": 8080}, "failureThreshold": 60, **often},
            readinessProbe={"httpGet": {"port": 8080, "path": "/"}, **often},
            livenessProbe=executing("test", "-e", "/tmp/www", timeoutSeconds=patience),
        ),
    )


def staged() -> Json:
    """Two init containers, between them a sidecar, and a main container that ends."""
    note = "echo {} >> /shared/order"
    mounts = [{"name": "shared", "mountPath": "/shared"}]
    sidecar = busybox(
        f"{note.format('sidecar')}; touch /tmp/up; {FOREVER}", "sidecar", restartPolicy="Always",
        startupProbe=executing("cat", "/tmp/up"), volumeMounts=mounts,
    )  # fmt: skip
    first = busybox(note.format("first"), "first", volumeMounts=mounts)
    last = busybox(note.format("last"), "last", volumeMounts=mounts)
    return static_pod(
        "staged",
        busybox("cat /shared/order", volumeMounts=mounts),
        initContainers=[first, sidecar, last],
        volumes=[{"name": "shared", "emptyDir": {}}],
        restartPolicy="Never",
    )


def furnished(directory: Path) -> Json:
    """A pod with every kind of volume that needs no API server."""
    field = {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}
    limit = {"containerName": "main", "resource": "limits.memory"}
    mounts = [
        {"name": "disk", "mountPath": "/disk"},
        {"name": "disk", "mountPath": "/part", "subPath": "a/b"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "host", "mountPath": "/host", "readOnly": True},
        {"name": "facts", "mountPath": "/facts"},
    ]
    environment = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": limit}},
    ]
    return static_pod(
        "furnished",
        busybox(FOREVER, volumeMounts=mounts, env=environment,
                resources={"limits": {"memory": "48Mi"}}),
        busybox("echo from the neighbour > /disk/file; " + FOREVER, "neighbour",
                volumeMounts=mounts[:1]),
        volumes=[
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            host_path("host", directory / "host"),
            {"name": "facts", "downwardAPI": {"items": [field]}},
        ],
        hostAliases=[{"ip": "192.0.2.7", "hostnames": ["seven.example"]}],
    )  # fmt: skip


def stumbling() -> Json:
    """Its container fails once, and so there are two of one name: a dead one and a living one."""
    script = f"test -e /keep/once && {FOREVER}; touch /keep/once; exit 1"
    mounts = [{"name": "keep", "mountPath": "/keep"}]
    volume = {"name": "keep", "emptyDir": {}}
    return static_pod("stumbling", busybox(script, volumeMounts=mounts), volumes=[volume])


def limited() -> Json:
    wanted = {"limits": {"memory": "64Mi", "cpu": "250m"}, "requests": {"cpu": "125m"}}
    return static_pod("limited", busybox(FOREVER, resources=wanted))


def orderly(directory: Path) -> Json:
    return static_pod(
        "orderly",
        busybox(
            ORDERLY,
            volumeMounts=[{"name": "told", "mountPath": "/told"}],
            lifecycle={"preStop": {"exec": {"command": ["sh", "-c", "echo stop > /told/order"]}}},
        ),
        volumes=[host_path("told", directory / "told")],
        terminationGracePeriodSeconds=20,
    )


def pods(directory: Path) -> list[Json]:
    """Everything that is asked for when kubelet has started."""
    port = {"containerPort": 8080, "hostPort": HOST_PORT}
    once = {"restartPolicy": "Never"}
    greedy = {"limits": {"memory": "32Mi"}}
    return [
        static_pod("plain", busybox(f"echo hello; {FOREVER}")),
        probed(),
        static_pod("unready", busybox(FOREVER, readinessProbe=executing("sleep", "100"))),
        static_pod("unwell", busybox("touch /tmp/ok; sleep 3; rm /tmp/ok; " + FOREVER,
                   livenessProbe=executing("cat", "/tmp/ok", failureThreshold=1,
                                           initialDelaySeconds=1))),
        static_pod("crashing", busybox("echo about to crash; exit 3")),
        static_pod("echoing", busybox("exec cat", stdin=True)),
        static_pod("greedy", busybox(EAT, resources=greedy), **once),
        static_pod("talking", busybox("echo why > /dev/termination-log; exit 7"), **once),
        static_pod("unstartable", {"name": "main", "image": BUSYBOX, "command": ["/no/such"]}),
        static_pod("imageless", {"name": "main", "image": f"{REGISTRY}/no/such:1"}),
        static_pod("chatty", busybox(CHATTY)),
        static_pod("exposed", busybox(SERVE, ports=[port])),
        static_pod("networkless", busybox(FOREVER), hostNetwork=True, hostPID=True),
        stumbling(), staged(), furnished(directory), limited(), orderly(directory),
    ]  # fmt: skip
