"""podwright as the runtime of a cluster's node: scheduled, scaled, resized."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from kubernetes import stream

from cri.api import api_pb2 as api
from e2e import cluster as clusters
from e2e import handlers, images, kube
from e2e.cluster import Cluster
from e2e.conftest import BUSYBOX, push_images
from e2e.kube import Json
from e2e.kubelet import Kubelet
from e2e.node import REGISTRY, Node, started
from e2e.static_pods import FOREVER, busybox
from e2e.test_limits import MIB, UNIFIED

pytestmark = pytest.mark.skipif(bool(clusters.missing()), reason=clusters.missing())

MANY = 20


@pytest.fixture(scope="module")
def machine() -> Iterator[Node]:
    with started() as node:
        node.inside(lambda: push_images(images.Registry(REGISTRY)))
        node.more_config = handlers.tables()
        node.restart_daemon()
        yield node


@pytest.fixture(scope="module")
def cluster(machine: Node) -> Iterator[Cluster]:
    """A cluster whose node is Ready; nothing of it may be left on the node afterwards."""
    before = machine.inventory()
    with clusters.running(machine) as cluster:
        cluster.until(lambda: "default" in accounts(cluster), "controllers work")
        cluster.until(lambda: ready(cluster), "the node is Ready", kube.NAME)
        yield cluster
    assert machine.leaks(before) == []


def accounts(cluster: Cluster) -> list[str]:
    found = cluster.ask(lambda: cluster.core.list_namespaced_service_account("default"))
    return [account.metadata.name for account in found.items]


def node_object(cluster: Cluster) -> Any:
    nodes = cluster.ask(lambda: cluster.core.list_node()).items
    return nodes[0] if nodes else None


def ready(cluster: Cluster) -> bool:
    node = node_object(cluster)
    if node is None or node.spec.taints:
        return False
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def template(name: str, *containers: Json, **spec: object) -> Json:
    """A pod's labels and specification."""
    made = {"containers": list(containers), "terminationGracePeriodSeconds": 1, **spec}
    return {"metadata": {"labels": {"app": name}}, "spec": made}


def pod(name: str, *containers: Json, **spec: object) -> Json:
    made = template(name, *containers, **spec)
    made["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod", **made}


def runtime_class(name: str, handler: str) -> Json:
    described = {"metadata": {"name": name}, "handler": handler}
    return {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", **described}


def test_the_node_says_what_runs_it(cluster: Cluster) -> None:
    node = node_object(cluster)
    assert node.status.node_info.container_runtime_version.startswith("podwright://")
    assert "podwright" in [handler.name for handler in node.status.runtime_handlers]


def deploy(cluster: Cluster, name: str) -> None:
    """A deployment of one pod that runs for ever."""
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, busybox(FOREVER)),
    }
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}}
    cluster.create({**deployment, "spec": spec})
    cluster.until(lambda: count(cluster, name) == 1, "one pod ready")


def count(cluster: Cluster, name: str) -> int:
    """How many of its pods are ready."""
    found = cluster.ask(lambda: cluster.apps.read_namespaced_deployment(name, "default").status)
    return int(found.ready_replicas or 0)


def scale(cluster: Cluster, name: str, replicas: int) -> None:
    body = {"spec": {"replicas": replicas}}
    cluster.ask(lambda: cluster.apps.patch_namespaced_deployment_scale(name, "default", body))


def running(cluster: Cluster, name: str) -> list[str]:
    """The names of its pods in which a container runs, one for each container."""
    state = api.ContainerStateValue(state=api.CONTAINER_RUNNING)
    found = Kubelet(cluster.node).containers(state=state)
    pods = (container.labels["io.kubernetes.pod.name"] for container in found)
    return [pod for pod in pods if pod.startswith(f"{name}-")]


def lives(cluster: Cluster, name: str) -> dict[str, tuple[str, int]]:
    """Of its ready pods: the container's id, and how often it was restarted."""
    found = {}
    for one in cluster.pods(f"app={name}"):
        for status in one.status.container_statuses or ():
            if status.ready:
                found[one.metadata.name] = (status.container_id, status.restart_count)
    return found


def test_a_deployment_grows_to_twenty_and_shrinks_to_nothing(cluster: Cluster) -> None:
    deploy(cluster, "many")
    scale(cluster, "many", MANY)
    cluster.until(lambda: count(cluster, "many") == MANY, f"{MANY} pods ready")
    addresses = {pod.status.pod_ip for pod in cluster.pods("app=many")}
    assert len(addresses) == len(running(cluster, "many")) == MANY
    scale(cluster, "many", 0)
    cluster.until(lambda: not cluster.pods("app=many"), "no pod left")
    assert running(cluster, "many") == []


def test_a_deployment_grows_though_podwright_is_killed_meanwhile(cluster: Cluster) -> None:
    deploy(cluster, "tough")
    scale(cluster, "tough", MANY)
    cluster.until(lambda: bool(running(cluster, "tough")), "the first runs")
    before = lives(cluster, "tough")
    cluster.node.restart_daemon(how=signal.SIGKILL)
    cluster.until(lambda: count(cluster, "tough") == MANY, f"{MANY} pods ready")
    addresses = {pod.status.pod_ip for pod in cluster.pods("app=tough")}
    assert len(addresses) == MANY
    pods = running(cluster, "tough")
    assert len(pods) == len(set(pods)) == MANY
    assert before
    assert before.items() <= lives(cluster, "tough").items()


def test_a_job_completes(cluster: Cluster) -> None:
    spec = {
        "completions": 5,
        "parallelism": 3,
        "template": template("work", busybox("echo done"), restartPolicy="Never"),
    }
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "work"}, "spec": spec}
    cluster.create(job)

    def completed() -> bool:
        status = cluster.ask(lambda: cluster.batch.read_namespaced_job("work", "default").status)
        return bool(status.succeeded == 5 and not status.failed)

    cluster.until(completed, "five times")


def test_pods_run_by_the_runtime_class_of_each_handler(cluster: Cluster) -> None:
    known = {handler.name for handler in node_object(cluster).status.runtime_handlers}
    assert known >= {one.name for one in handlers.CANDIDATES if not one.program or one.path}
    names = [f"class-{handler}" for handler in sorted(known) if handler]
    for name in names:
        cluster.create(
            runtime_class(name, name.removeprefix("class-")),
            pod(name, busybox(FOREVER), runtimeClassName=name),
        )
    for name in names:
        cluster.wait_phase(name, "Running")


def test_a_cluster_is_told_what_its_node_can_run(cluster: Cluster) -> None:
    def tell() -> list[str]:
        node = cluster.node
        words = (
            *(sys.executable, "deploy/nodes.py", "--node", kube.NAME, "--wait", "60"),
            *("--kubeconfig", f"{cluster.directory}/kubeconfig", "--address", node.address),
        )
        done = node.run(*words, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    handler = next(one.name for one in handlers.CANDIDATES[::-1] if not one.program or one.path)
    said = tell()
    assert f"RuntimeClass {handler} created" in said
    assert said[-1] == f"node {kube.NAME}: Ready"
    assert f"RuntimeClass {handler} is as it should be" in tell()
    cluster.create(pod("classy", busybox(FOREVER), runtimeClassName=handler))
    cluster.wait_phase("classy", "Running")
    assert cluster.pod("classy").spec.overhead
    assert cluster.pod("classy").spec.node_selector == {f"podwright.io/handler-{handler}": "true"}


def test_an_unknown_handler_is_said_in_our_words(cluster: Cluster) -> None:
    cluster.create(
        runtime_class("unknown", "no-such-handler"),
        pod("classless", busybox(FOREVER), runtimeClassName="unknown"),
    )

    def said() -> bool:
        return any(
            event.startswith("FailedCreatePodSandBox") and "no-such-handler" in event
            and "is not configured" in event
            for event in cluster.events("classless")
        )  # fmt: skip

    cluster.until(said, "an event with the runtime's words", "classless")


def test_why_a_container_does_not_start_is_an_event(cluster: Cluster) -> None:
    cluster.create(pod("broken", {"name": "main", "image": BUSYBOX, "command": ["/no/such"]}))

    def said() -> bool:
        return any("/no/such" in event and "Failed" in event for event in cluster.events("broken"))

    cluster.until(said, "an event with the runtime's words", "broken")


def test_exec_goes_through_the_api_server(cluster: Cluster) -> None:
    cluster.create(pod("entered", busybox(f"echo hello; {FOREVER}")))
    cluster.wait_phase("entered", "Running")
    assert execute(cluster, "entered", "sh", "-c", "echo $HOSTNAME; exit 5") == ("entered\n", 5)


def execute(cluster: Cluster, name: str, *command: str) -> tuple[str, int]:
    """Output and exit code of a command, by a WebSocket as the client for Python opens it."""

    def run() -> tuple[str, int]:
        session = stream.stream(
            cluster.core.connect_get_namespaced_pod_exec, name, "default",
            command=list(command), stdout=True, stderr=True, _preload_content=False,
        )  # fmt: skip
        session.run_forever(timeout=kube.PATIENCE)
        answer = session.read_stdout(timeout=1), session.returncode
        session.close()
        session.sock.shutdown()
        return answer

    return cluster.ask(run)


def test_what_the_api_server_keeps_is_in_the_files_of_a_pod(cluster: Cluster) -> None:
    described = {"metadata": {"name": "words"}, "data": {"word": "configured"}}
    cluster.create(
        {"apiVersion": "v1", "kind": "ConfigMap", **described},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "quiet"},
         "stringData": {"word": "secret"}},
    )  # fmt: skip
    mounts = [{"name": "both", "mountPath": "/both", "readOnly": True}]
    sources: list[Mapping[str, object]] = [
        {"configMap": {"name": "words"}},
        {"secret": {"name": "quiet", "items": [{"key": "word", "path": "hush"}]}},
    ]
    script = (
        "cat /both/word /both/hush; test -s /var/run/secrets/kubernetes.io/serviceaccount/token"
    )
    cluster.create(
        pod(
            "reader",
            busybox(script, volumeMounts=mounts),
            volumes=[{"name": "both", "projected": {"sources": sources}}],
            restartPolicy="Never",
        )
    )
    cluster.wait_phase("reader", "Succeeded")
    log = cluster.ask(lambda: cluster.core.read_namespaced_pod_log("reader", "default"))
    assert log == "configuredsecret"


def test_a_running_container_is_resized(cluster: Cluster) -> None:
    def limits(cpu: str, memory: str) -> Json:
        amounts = {"cpu": cpu, "memory": memory}
        return {"resources": {"limits": amounts, "requests": amounts}}

    cluster.create(pod("elastic", busybox(FOREVER, **limits("100m", "64Mi"))))
    cluster.wait_phase("elastic", "Running")
    body = {"spec": {"containers": [{"name": "main", **limits("200m", "96Mi")}]}}
    cluster.ask(lambda: cluster.core.patch_namespaced_pod_resize("elastic", "default", body))

    def resized() -> bool:
        (status,) = cluster.pod("elastic").status.container_statuses
        return bool(status.resources and status.resources.limits["memory"] == "96Mi")

    cluster.until(resized, "its status shows the new limits", "elastic")
    (status,) = cluster.pod("elastic").status.container_statuses
    assert status.restart_count == 0
    file = "memory.max" if UNIFIED else "memory/memory.limit_in_bytes"
    script = f"cat /sys/fs/cgroup/{file}"
    assert execute(cluster, "elastic", "sh", "-c", script) == (f"{96 * MIB}\n", 0)


def test_root_of_a_pod_with_users_of_its_own_is_nobody_on_the_node(cluster: Cluster) -> None:
    known = node_object(cluster).status.runtime_handlers
    if not any(handler.features.user_namespaces for handler in known):
        pytest.skip("the node says that it has no user namespaces for pods")
    mounts = [{"name": "disk", "mountPath": "/disk"}]
    names = ("mapped", "apart")
    for name in names:
        container = busybox(FOREVER, volumeMounts=mounts)
        disk = {"name": "disk", "emptyDir": {}}
        cluster.create(pod(name, container, volumes=[disk], hostUsers=False))
    firsts = set()
    for name in names:
        cluster.wait_phase(name, "Running")
        owner, inside, outside, size = execute(
            cluster,
            name,
            "sh",
            "-c",
            "touch /disk/file; stat -c %u /disk/file; cat /proc/self/uid_map",
        )[0].split()
        assert (owner, inside, int(size) >= 65536) == ("0", "0", True)
        firsts.add(int(outside))
    assert min(firsts) >= 65536
    assert len(firsts) == len(names)
