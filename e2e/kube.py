"""The real kubelet on a node of the tests' own, without an API server: its pods are files.

    kubelet.apply(manifest)      a static pod: a file in the directory that kubelet watches
    kubelet.pod("web")           what kubelet says of it, as the API's Pod with its status

What else it does to a machine is kept away from this one by `shelter.py`. It ends by its pid.

    <directory>/kubelet/    its root: volumes, checkpoints, its socket and certificate
    <directory>/manifests/  the static pods            <directory>/podlogs/  their logs
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import ssl
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cri.api import api_pb2 as api
from e2e.kubelet import Kubelet, Pod, until
from e2e.node import TOOLS, Background, Node
from e2e.shelter import ADDRESS, Shelter

OLDEST = (1, 34)
"""The first kubelet that these tests know how to configure."""
NAME = "node"
"""What the node is called; kubelet appends it to the names of static pods."""
PORT = 10250
URL = f"https://127.0.0.1:{PORT}"
PATIENCE = 60.0
"""Seconds for what takes a pod's life, with images and probes."""
EVERY = 0.2
"""Seconds between two looks at kubelet, which itself looks at the runtime once a second."""
Json = dict[str, Any]
Manifest = Mapping[str, object]


class Refused(Exception):
    """kubelet answered a request with another code than 2xx."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


def program(name: str) -> str:
    """The path of a Kubernetes program: PODWRIGHT_<NAME> or on PATH; empty if there is none."""
    named = os.environ.get(f"PODWRIGHT_{name.upper().replace('-', '_')}", "")
    return named or shutil.which(name) or ""


def missing() -> str:
    """Why there can be no kubelet here, and the remedy; empty if there can be."""
    remedy = "put kubelet 1.34 or later on PATH or name it by PODWRIGHT_KUBELET"
    path = program("kubelet")
    if not path:
        return f"no kubelet: {remedy}"
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except OSError as error:
        return f"{path} can't be run ({error}): {remedy}"
    version = re.search(r"v(\d+)\.(\d+)", said.stdout)
    if version is None or tuple(map(int, version.groups())) < OLDEST:
        return f"{path} says {said.stdout.strip() or said.stderr.strip()!r}: {remedy}"
    return ""


def configuration(node: Node, cgroup: str, **changes: object) -> Json:
    """kubelet's configuration; `changes` are keys of it."""
    directory = node.directory
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": node.address,
        "staticPodPath": str(directory / "manifests"),
        "fileCheckFrequency": "1s",
        "syncFrequency": "5s",
        "podLogsDir": str(directory / "podlogs"),
        "volumePluginDir": str(directory / "kubelet" / "plugins"),
        "resolvConf": str(directory / "resolv.conf"),
        "port": PORT,
        "readOnlyPort": 0,
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "cgroupsPerQOS": True,
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "oomScoreAdj": 0,
        "registerNode": False,
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "evictionHard": dict.fromkeys(
            ("memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available",
             "imagefs.inodesFree", "pid.available"), "0%"
        ),
        "imageMinimumGCAge": "1s",
        "containerLogMaxSize": "64Ki",
        "containerLogMaxFiles": 1000,
        "containerLogMonitorInterval": "3s",
        **changes,
    }  # fmt: skip


@dataclass(slots=True)
class RealKubelet:
    """A kubelet that runs, and its static pods."""

    node: Node
    shelter: Shelter
    process: Background | None = None
    changes: Json = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    """Of its command line; `--kubeconfig` among them makes it a node of a cluster."""
    patience: float = PATIENCE

    @property
    def manifests(self) -> Path:
        return self.node.directory / "manifests"

    # its process

    def start(self) -> None:
        """Starts it and waits until it is healthy; RuntimeError with its log otherwise."""
        directory = self.node.directory
        self.manifests.mkdir(exist_ok=True)
        (directory / "resolv.conf").write_text("nameserver 192.0.2.53\nsearch example.test\n")
        config = directory / "kubelet.json"
        written = configuration(self.node, self.shelter.cgroup, **self.changes)
        config.write_text(json.dumps(written))
        root = directory / "kubelet"
        words = (
            "env", f"PATH={':'.join(map(str, TOOLS))}", program("kubelet"),
            f"--config={config}", f"--root-dir={root}", f"--cert-dir={root}/pki",
            f"--hostname-override={NAME}", f"--node-ip={ADDRESS}", "--v=3", *self.flags,
        )  # fmt: skip
        self.process = self.node.background("kubelet", *words)
        deadline = time.monotonic() + self.patience
        while not self.healthy():
            if self.process.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"{self.process.log} says:\n{self.process.tail()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.process.wait(0.1)

    def healthy(self) -> bool:
        try:
            return self.get("/healthz") == b"ok"
        except (OSError, Refused):
            return False

    def stop(self) -> None:
        if self.process is not None and self.process.process.poll() is None:
            self.process.stop()

    def restart(self, **changes: object) -> None:
        """Another one after it, with other values for keys of its configuration."""
        self.stop()
        self.changes = {**self.changes, **changes}
        self.start()

    # its pods

    def apply(self, *manifests: Manifest) -> None:
        """Writes static pods; kubelet sees whole files alone."""
        for manifest in manifests:
            metadata = manifest["metadata"]
            assert isinstance(metadata, dict)
            aside = self.node.directory / f"{metadata['name']}.json"
            aside.write_text(json.dumps(manifest))
            aside.rename(self.manifests / aside.name)

    def delete(self, *names: str) -> None:
        for name in names:
            (self.manifests / f"{name}.json").unlink(missing_ok=True)

    def pods(self) -> dict[str, Json]:
        """The pods that kubelet knows, with their status, by the name in their manifest."""
        items = json.loads(self.get("/pods")).get("items") or []
        return {item["metadata"]["name"].removesuffix(f"-{NAME}"): item for item in items}

    def pod(self, name: str) -> Json:
        found: Json = self.pods().get(name, {})
        return found

    def container(self, name: str, container: str = "main") -> Json:
        """A container's status (also of init containers); empty while it has none."""
        status = self.pod(name).get("status", {})
        for kind in ("containerStatuses", "initContainerStatuses"):
            for item in status.get(kind, ()):
                if item["name"] == container:
                    found: Json = item
                    return found
        return {}

    def wait(self, name: str, ready: Callable[[Json], bool], what: str = "") -> Json:
        """The pod once `ready` is true of it; AssertionError with its status otherwise."""
        seen: list[Json] = [{}]

        def look() -> bool:
            seen[0] = self.pod(name)
            return bool(seen[0]) and ready(seen[0])

        try:
            until(look, f"{name}: {what or ready.__name__}", self.patience, every=EVERY)
        except AssertionError as error:
            status = json.dumps(seen[0].get("status"), indent=1)
            raise AssertionError(f"{error}\n{status}\n{self.remarks(name)}") from None
        return seen[0]

    def wait_ready(self, name: str) -> Json:
        return self.wait(name, is_ready)

    def wait_gone(self, *names: str) -> None:
        """Until it has ended their containers and forgotten them."""

        def gone() -> bool:
            ready = api.PodSandboxStateValue(state=api.SANDBOX_READY)
            still = {item.metadata.name for item in Kubelet(self.node).sandboxes(state=ready)}
            still |= {f"{name}-{NAME}" for name in self.pods()}
            return not still & {f"{name}-{NAME}" for name in names}

        until(gone, f"{names} gone", self.patience, every=EVERY)

    def clear(self) -> None:
        """Ends all pods, and removes their sandboxes, which it would collect once a minute."""
        self.delete(*(path.stem for path in self.manifests.iterdir()))
        until(lambda: not self.pods(), "it knows no pods", self.patience, every=EVERY)
        volumes = self.node.directory / "kubelet" / "pods"
        until(lambda: not os.listdir(volumes), "volumes unmounted", self.patience, every=EVERY)
        self.stop()
        asker = Kubelet(self.node)
        for sandbox in asker.sandboxes():
            Pod(asker, sandbox.id, api.PodSandboxConfig()).remove()

    def log(self, name: str, container: str = "main", query: str = "") -> str:
        path = f"/containerLogs/default/{name}-{NAME}/{container}"
        return self.get(f"{path}?{query}").decode()

    def run(self, name: str, *command: str, container: str = "main") -> str:
        """What a command in a container writes, by kubelet's plain /run."""
        words = urllib.parse.urlencode({"cmd": " ".join(command)})
        path = f"/run/default/{name}-{NAME}/{container}?{words}"
        return self.get(path, method="POST").decode()

    def remarks(self, about: str, lines: int = 8) -> str:
        """The latest lines of its log that speak of something."""
        assert self.process is not None
        said = self.process.log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in said if about in line][-lines:])

    # its API

    def stream_url(self, kind: str, name: str, container: str = "", **words: object) -> str:
        """Where to exec, attach or portForward; a list makes a word repeat."""
        place = f"{URL}/{kind}/default/{name}-{NAME}{container and '/' + container}"
        return f"{place}?{urllib.parse.urlencode(words, doseq=True)}"

    def get(self, path: str, *, method: str = "GET") -> bytes:
        """Asks its HTTPS port; Refused, or OSError if it does not listen."""
        request = urllib.request.Request(f"{URL}{path}", method=method)
        context = trusting()

        def ask() -> bytes:
            try:
                with urllib.request.urlopen(
                    request, timeout=self.patience, context=context
                ) as answer:
                    read: bytes = answer.read()
                    return read
            except urllib.error.HTTPError as error:
                with error:
                    raise Refused(error.code, error.read().decode(errors="replace")) from None

        return self.node.inside(ask)


def trusting() -> ssl.SSLContext:
    """Takes any certificate: kubelet signed its own."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def is_ready(pod: Json) -> bool:
    return condition(pod, "Ready") == "True"


def condition(pod: Json, kind: str) -> str:
    """The status of one of a pod's conditions; empty while it has none."""
    conditions: list[Json] = pod.get("status", {}).get("conditions", [])
    return next((str(c["status"]) for c in conditions if c["type"] == kind), "")


def succeeded(pod: Json) -> bool:
    return bool(pod["status"]["phase"] == "Succeeded")


def failed(pod: Json) -> bool:
    return bool(pod["status"]["phase"] == "Failed")


@contextlib.contextmanager
def running(node: Node, **changes: object) -> Iterator[RealKubelet]:
    """A kubelet on the node; at the end its pods have been removed, and what it made."""
    shelter = Shelter(node)
    kubelet = RealKubelet(node, shelter, changes=changes)
    try:
        shelter.build()
        kubelet.start()
        yield kubelet
        kubelet.clear()
    finally:
        kubelet.stop()
        with contextlib.suppress(OSError):  # pods that would not go: the holder ends them
            shelter.remove()
