"""A cluster of one node: etcd, API server, controllers and scheduler beside the real kubelet.

    cluster.ask(lambda: cluster.core.list_node())

All of it runs in the node's network namespace, so its ports meet nobody's, and in the node's
directory. One token is everybody's, and it may do everything: what is tested here is the node.
"""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import kubernetes
import urllib3

from e2e import kube
from e2e.kube import RealKubelet, program
from e2e.kubelet import until
from e2e.node import Background, Node, tool
from e2e.shelter import ADDRESS, Shelter

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
TOKEN = "token-of-the-tests"
STORE = "http://127.0.0.1:2379"
PEERS = "http://127.0.0.1:2380"
SERVER = f"https://{ADDRESS}:6443"
PATIENCE = 120.0
"""Seconds for what takes several controllers on a machine that others use, too."""

Answer = TypeVar("Answer")

_kubernetes: Any = kubernetes
"""The client's models say that every field may be missing; here a missing one fails the test."""


def missing() -> str:
    """Why there can be no cluster here, and the remedy; empty if there can be."""
    absent = [name for name in PROGRAMS if not program(name)]
    if absent:
        names = ", ".join(f"PODWRIGHT_{name.upper().replace('-', '_')}" for name in absent)
        return f"no {', '.join(absent)}: put them on PATH or name them by {names}"
    return kube.missing()


@dataclass(slots=True)
class Cluster:
    """The programs of the control plane, and the node's kubelet."""

    node: Node
    kubelet: RealKubelet
    client: Any = None
    """The ApiClient, once the API server runs."""
    servants: list[Background] = field(default_factory=list)

    @property
    def directory(self) -> Path:
        return self.node.directory / "cluster"

    def start(self) -> None:
        """Starts everything, one after the other; RuntimeError with a log otherwise."""
        self.directory.mkdir()
        self._write_credentials()
        store = self._serve(
            "etcd", f"--data-dir={self.directory}/etcd", f"--listen-client-urls={STORE}",
            f"--advertise-client-urls={STORE}", f"--listen-peer-urls={PEERS}",
            f"--initial-advertise-peer-urls={PEERS}", f"--initial-cluster=default={PEERS}",
            "--unsafe-no-fsync",
        )  # fmt: skip
        self._await(store, self._stores)
        key = self.directory / "service-accounts.key"
        server = self._serve(
            "kube-apiserver", f"--etcd-servers={STORE}", f"--advertise-address={ADDRESS}",
            f"--cert-dir={self.directory}", f"--token-auth-file={self.directory}/tokens.csv",
            "--authorization-mode=AlwaysAllow", "--service-cluster-ip-range=10.96.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={key}", f"--service-account-key-file={key}",
            "--kubelet-preferred-address-types=InternalIP", "--shutdown-delay-duration=0s",
        )  # fmt: skip
        self._connect()
        self._await(server, self._answers)
        control = (f"--kubeconfig={self.directory}/kubeconfig", "--leader-elect=false")
        self._serve(
            "kube-controller-manager", *control, f"--service-account-private-key-file={key}",
            f"--root-ca-file={self.directory}/apiserver.crt", "--bind-address=127.0.0.1",
        )  # fmt: skip
        self._serve("kube-scheduler", *control, "--bind-address=127.0.0.1")
        self.kubelet.start()

    def stop(self) -> None:
        """Ends kubelet, then the control plane, newest first."""
        self.kubelet.stop()
        while self.servants:
            self.servants.pop().stop()

    def _write_credentials(self) -> None:
        (self.directory / "tokens.csv").write_text(f"{TOKEN},tests,tests,system:masters\n")
        cluster = {"server": SERVER, "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": "tests", "user": {"token": TOKEN}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
            "current-context": "tests",
        }
        (self.directory / "kubeconfig").write_text(json.dumps(config))
        key = str(self.directory / "service-accounts.key")
        words = [tool("openssl"), "genrsa", "-out", key, "2048"]
        subprocess.run(words, check=True, capture_output=True)

    def _serve(self, name: str, *flags: str) -> Background:
        self.servants.append(self.node.background(name, program(name), *flags))
        return self.servants[-1]

    def _connect(self) -> None:
        configuration = _kubernetes.client.Configuration()
        configuration.host = SERVER
        configuration.verify_ssl = False
        configuration.api_key = {"authorization": f"Bearer {TOKEN}"}
        self.client = _kubernetes.client.ApiClient(configuration)

    @property
    def core(self) -> Any:
        return _kubernetes.client.CoreV1Api(self.client)

    @property
    def apps(self) -> Any:
        return _kubernetes.client.AppsV1Api(self.client)

    @property
    def batch(self) -> Any:
        return _kubernetes.client.BatchV1Api(self.client)

    def _stores(self) -> bool:
        try:
            answer = self.node.inside(lambda: urllib3.request("GET", f"{STORE}/health", timeout=5))
        except urllib3.exceptions.HTTPError:
            return False
        return answer.status == 200

    def _answers(self) -> bool:
        try:
            self.ask(lambda: self.core.list_namespace(_request_timeout=5))
        except (urllib3.exceptions.HTTPError, _kubernetes.client.ApiException):
            return False
        return True

    def _await(self, background: Background, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not ready():
            if background.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{background.log} says:\n{background.tail()}")
            with contextlib.suppress(subprocess.TimeoutExpired):
                background.process.wait(0.2)

    # what is asked of it

    def ask(self, question: Callable[[], Answer]) -> Answer:
        """Calls `question` on the node: the client's sockets lead to the server from there."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            return self.node.inside(question)

    def create(self, *documents: Mapping[str, object]) -> None:
        """Makes objects of any kind that the client's own tables know."""
        for document in documents:
            create = _kubernetes.utils.create_from_dict
            self.ask(functools.partial(create, self.client, dict(document)))

    def pods(self, selector: str = "") -> list[Any]:
        found = self.ask(
            lambda: self.core.list_namespaced_pod("default", label_selector=selector).items
        )
        return list(found)

    def pod(self, name: str) -> Any:
        return self.ask(lambda: self.core.read_namespaced_pod(name, "default"))

    def events(self, name: str) -> list[str]:
        """What is said of an object: `Reason: message`."""
        chosen = f"involvedObject.name={name}"
        found = self.ask(
            lambda: self.core.list_namespaced_event("default", field_selector=chosen).items
        )
        return [f"{event.reason}: {event.message}" for event in found]

    def until(self, ready: Callable[[], bool], what: str, about: str = "") -> None:
        """Waits; AssertionError with the events of an object if it is in vain."""
        try:
            until(ready, what, PATIENCE, every=kube.EVERY)
        except AssertionError as error:
            raise AssertionError("\n".join([str(error), *self.events(about)])) from None

    def wait_phase(self, name: str, phase: str) -> Any:
        self.until(lambda: self.pod(name).status.phase == phase, f"{name} {phase}", name)
        return self.pod(name)

    def clear(self) -> None:
        """Deletes what makes pods, then the pods, and waits until kubelet has ended them all."""
        now = {"grace_period_seconds": 0, "propagation_policy": "Background"}

        def delete() -> None:
            self.apps.delete_collection_namespaced_deployment("default", **now)
            self.batch.delete_collection_namespaced_job("default", **now)
            self.core.delete_collection_namespaced_pod("default", grace_period_seconds=1)

        self.ask(delete)
        self.until(lambda: not self.pods(), "no pods left")
        self.kubelet.clear()


@contextlib.contextmanager
def running(node: Node) -> Iterator[Cluster]:
    """A cluster on the node; at the end its pods have been removed, and what it made."""
    shelter = Shelter(node)
    flags = (f"--kubeconfig={node.directory}/cluster/kubeconfig",)
    kubelet = RealKubelet(node, shelter, changes={"registerNode": True}, flags=flags)
    cluster = Cluster(node, kubelet)
    try:
        shelter.build()
        cluster.start()
        yield cluster
        cluster.clear()
    finally:
        cluster.stop()
        with contextlib.suppress(OSError):  # pods that would not go: the holder ends them
            shelter.remove()
