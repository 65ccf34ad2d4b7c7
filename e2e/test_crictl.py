"""crictl's commands, one by one, on a node of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from e2e import crictl as crictl_program
from e2e import images
from e2e.crictl import Crictl
from e2e.images import Image, Registry
from e2e.kubelet import Container, Kubelet, Pod, until
from e2e.node import REGISTRY, Node, started
from e2e.test_network import get, server

BUSYBOX = f"{REGISTRY}/library/busybox:1.35"
UNUSED = f"{REGISTRY}/tests/unused:1"
IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}")

transports = pytest.mark.parametrize("transport", ["spdy", "websocket"])


@pytest.fixture(scope="module")
def crictl() -> Iterator[Crictl]:
    """On a node of its own, for it removes images and pods whosever they are."""
    if not crictl_program.program():
        pytest.skip(
            "crictl is not in PATH: build it from the sources of kubernetes-sigs/cri-tools "
            f"(`make crictl`, 1.36 or later), or name it by {crictl_program.NAMED}"
        )
    with started() as node:
        node.inside(lambda: push(Registry(REGISTRY)))
        before = node.inventory()
        yield Crictl(node)
        assert node.leaks(before) == []


def push(registry: Registry) -> None:
    Image([images.busybox()], {"Cmd": ["sh"]}).push(registry, "library/busybox", "1.35")
    Image([images.busybox()], {"Labels": {"used": "no"}}).push(registry, "tests/unused", "1")


@pytest.fixture
def node(crictl: Crictl) -> Node:
    return crictl.node


@pytest.fixture
def kubelet(node: Node) -> Iterator[Kubelet]:
    kubelet = Kubelet(node)
    kubelet.image = kubelet.pull(BUSYBOX)
    yield kubelet
    kubelet.clean()


@pytest.fixture
def pod(kubelet: Kubelet) -> Pod:
    return kubelet.pod()


@pytest.fixture
def container(pod: Pod) -> Container:
    return pod.container().start()


# what is there


def test_ps_and_pods_list_what_runs(crictl: Crictl, pod: Pod, container: Container) -> None:
    ended = pod.container(["true"]).start()
    ended.wait()
    assert crictl("ps", "-q", "--no-trunc").split() == [container.id]
    assert set(crictl("ps", "-aq", "--no-trunc").split()) == {container.id, ended.id}
    assert crictl("ps", "-aq", "--no-trunc", "--state", "exited").split() == [ended.id]
    table = crictl("ps", "-a")
    name = container.config.metadata.name
    assert re.search(rf"{container.id[:13]} .* Running +{name} ", table)
    assert re.search(rf"{ended.id[:13]} .* Exited +{ended.config.metadata.name} ", table)
    assert crictl("pods", "-q", "--no-trunc").split() == [pod.id]
    row = crictl("pods", "--name", pod.config.metadata.name).splitlines()[1]
    assert re.search(rf"{pod.id[:13]} .* Ready +{pod.config.metadata.name} +e2e ", row)
    assert crictl("pods", "-q", "--state", "notready") == ""


def test_inspect_shows_all_of_a_container(crictl: Crictl, container: Container) -> None:
    told = crictl.json("inspect", container.id)
    assert told["status"]["id"] == container.id
    assert told["status"]["state"] == "CONTAINER_RUNNING"
    assert told["status"]["labels"] == dict(container.config.labels)
    pid = told["info"]["pid"]
    assert b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    words = ("inspect", "-o", "go-template", "--template", "{{.info.pid}}", container.id)
    assert crictl(*words).strip() == str(pid)


def test_inspectp_shows_all_of_a_pod(crictl: Crictl, pod: Pod) -> None:
    told = crictl.json("inspectp", pod.id)
    assert told["status"]["id"] == pod.id
    assert told["status"]["state"] == "SANDBOX_READY"
    assert told["status"]["network"]["ip"] == pod.ip
    assert told["info"]


def test_answers_are_the_same_on_a_terminal(crictl: Crictl, pod: Pod, container: Container) -> None:
    for words in (
        ("ps", "-aq"),
        ("pods", "-q"),
        ("images",),
        ("inspect", container.id),
        ("inspectp", pod.id),
        ("inspecti", BUSYBOX),
        ("runtime-config",),
        ("logs", container.id),
        ("exec", "-s", container.id, "id"),
    ):
        with crictl.terminal(*words) as terminal:
            assert terminal.wait() == 0
        assert terminal.output == crictl(*words), words


def test_an_id_that_is_nobodys_is_an_error(crictl: Crictl) -> None:
    assert "no container with id" in crictl("inspect", "d" * 64, code=1)
    assert "no sandbox with id" in crictl("inspectp", "d" * 64, code=1)
    assert "no such image" in crictl("inspecti", f"{REGISTRY}/none:1", code=1)


# images


def test_pull_images_inspecti_and_rmi(crictl: Crictl, kubelet: Kubelet) -> None:
    assert "Image is up to date" in crictl("pull", UNUSED)
    listed = crictl.json("images")["images"]
    (unused,) = [image for image in listed if UNUSED in image["repoTags"]]
    assert IMAGE_ID.fullmatch(unused["id"])
    assert crictl.json("inspecti", UNUSED)["status"]["id"] == unused["id"]
    assert unused["id"] in crictl("images", "-q", "--no-trunc").split()
    assert re.search(rf"{REGISTRY}/tests/unused +1 +{unused['id'][7:20]} ", crictl("images"))
    crictl("rmi", UNUSED)
    assert kubelet.image_status(UNUSED) is None


def test_rmi_prune_removes_what_no_container_uses(
    crictl: Crictl, kubelet: Kubelet, container: Container
) -> None:
    assert container.status().state == api.CONTAINER_RUNNING
    crictl("pull", UNUSED)
    assert UNUSED in crictl("rmi", "--prune")
    assert kubelet.image_status(UNUSED) is None
    assert kubelet.image_status(BUSYBOX) is not None


def test_imagefsinfo_counts_images(crictl: Crictl, kubelet: Kubelet) -> None:
    assert kubelet.image
    (filesystem,) = crictl.json("imagefsinfo")["status"]["imageFilesystems"]
    assert int(filesystem["usedBytes"]["value"]) > 1 << 20
    assert Path(filesystem["fsId"]["mountpoint"]).is_dir()


# logs


def test_logs_follow_a_container_to_its_end(crictl: Crictl, pod: Pod) -> None:
    script = "for i in 1 2; do echo line $i; done; read x < /tmp/go; echo last; echo err >&2"
    container = pod.container(["sh", "-c", f"mkfifo /tmp/go; {script}"]).start()
    with crictl.started("logs", "-f", container.id) as following:
        following.expect("line 2\n")
        assert "last" not in following.output
        container.shell("echo go > /tmp/go")
        following.expect("last\n")
        assert following.wait() == 0
    assert crictl("logs", "-s", "stdout", container.id) == "line 1\nline 2\nlast\n"
    assert crictl("logs", "-t", container.id).startswith("20")


# commands in containers


def test_exec_s_runs_a_command_and_answers_its_code(crictl: Crictl, container: Container) -> None:
    assert crictl("exec", "-s", container.id, "echo", "hello").strip() == "hello"
    assert "exited with 3" in crictl("exec", "-s", container.id, "sh", "-c", "exit 3", code=1)


@transports
def test_exec_streams_both_ways(crictl: Crictl, container: Container, transport: str) -> None:
    exec_ = ("exec", "-r", transport)
    assert crictl(*exec_, container.id, "echo", "hello") == "hello\n"
    said = crictl(*exec_, "-i", container.id, "sh", "-c", "cat; echo done", stdin="to and fro\n")
    assert said == "to and fro\ndone\n"
    assert "exit code 3" in crictl(*exec_, container.id, "sh", "-c", "exit 3", code=1)
    assert "no-such-command" in crictl(*exec_, container.id, "no-such-command", code=1)


@transports
def test_exec_with_a_terminal_has_its_size_and_its_keys(
    crictl: Crictl, container: Container, transport: str
) -> None:
    words = ("exec", "-r", transport, "-it", container.id, "sh")
    with crictl.terminal(*words, width=101, height=33) as terminal:
        terminal.type("tty; stty size\n")
        terminal.expect("/dev/pts/0\n")
        terminal.expect("33 101\n")
        terminal.resize(77, 22)
        until(lambda: _size(container) == "22 77", "the new size has arrived")
        terminal.type("sleep 1000\n")
        until(lambda: "sleep 1000\n" in container.shell("ps -o args") + "\n", "it sleeps")
        terminal.type("\x03echo $?\n")
        terminal.expect("\n130\n")
        terminal.type("exit\n")
        assert terminal.wait() == 0


def _size(container: Container) -> str:
    """The size of the first terminal in a container; "" while there is none."""
    return container.exec("sh", "-c", "stty size < /dev/pts/0").stdout.decode().strip()


@transports
def test_attach_speaks_with_the_containers_own_process(
    crictl: Crictl, pod: Pod, transport: str
) -> None:
    container = pod.container(["sh", "-c", "while read x; do echo got $x; done"], stdin=True)
    container.start()
    with crictl.started("attach", "-r", transport, "-i", container.id) as attached:
        attached.type("one\n")
        attached.expect("got one\n")
        attached.type("two\n")
        attached.expect("got two\n")
    until(lambda: container.log() == ["got one", "got two"], "the log has both")
    assert container.status().state == api.CONTAINER_RUNNING


@transports
def test_attach_to_a_terminal(crictl: Crictl, pod: Pod, transport: str) -> None:
    container = pod.container(["sh"], stdin=True, tty=True).start()
    words = ("attach", "-r", transport, "-it", container.id)
    with crictl.terminal(*words, width=99, height=31) as terminal:
        terminal.type("tty; stty size\n")
        terminal.expect("/dev/pts/0\n")
        terminal.expect("31 99\n")
        terminal.type("exit 4\n")
        terminal.wait()
    assert container.wait().exit_code == 4


@transports
def test_port_forward_leads_into_the_pod(
    crictl: Crictl, node: Node, pod: Pod, transport: str
) -> None:
    server(pod)
    with crictl.started("port-forward", "-r", transport, pod.id, ":8080") as forwarding:
        said = forwarding.expect(" -> 8080")
        found = re.search(r"127\.0\.0\.1:(\d+) -> 8080", said)
        assert found is not None
        pages = {get(node, "127.0.0.1", int(found[1])) for _ in range(3)}
    assert pages == {get(node, pod.ip, 8080)}


# figures


def test_stats_and_statsp_tell_what_is_used(crictl: Crictl, pod: Pod, container: Container) -> None:
    (stats,) = crictl.json("stats", "--id", container.id)["stats"]
    assert stats["attributes"]["id"] == container.id
    assert int(stats["memory"]["workingSetBytes"]["value"]) > 0
    assert container.id[:13] in crictl("stats", "--id", container.id)
    (stats,) = crictl.json("statsp", "--id", pod.id)["stats"]
    assert stats["attributes"]["id"] == pod.id
    assert int(stats["linux"]["memory"]["workingSetBytes"]["value"]) > 0
    assert [one["attributes"]["id"] for one in stats["linux"]["containers"]] == [container.id]


def test_metricsp_has_a_description_for_every_metric(
    crictl: Crictl, pod: Pod, container: Container
) -> None:
    described = {item["name"] for item in crictl.json("metricdescs")["descriptors"]}
    (metrics,) = crictl.json("metricsp")["podMetrics"]
    assert metrics["podSandboxId"] == pod.id
    (of_container,) = metrics["containerMetrics"]
    assert of_container["containerId"] == container.id
    names = {item["name"] for item in (*metrics["metrics"], *of_container["metrics"])}
    assert "container_cpu_usage_seconds_total" in names
    assert names <= described


def test_events_tell_a_pods_life(crictl: Crictl, kubelet: Kubelet) -> None:
    wanted = [f"CONTAINER_{what}_EVENT" for what in ("CREATED", "STARTED", "STOPPED", "DELETED")]
    with crictl.started("events") as watching:
        kubelet.pod(kubelet.config(labels={"watched": "first"}))
        watching.expect("CONTAINER_STARTED_EVENT")  # it listens
        pod = kubelet.pod()
        container = pod.container(["true"]).start()
        container.wait()
        container.remove()
        pod.remove()
        kubelet.pods.remove(pod)
        watching.read_until(lambda: wanted[-1] in _told(watching.output, pod.id), "the pod's end")
    assert _told(watching.output, container.id) == wanted
    assert _told(watching.output, pod.id) == wanted


def _told(output: str, id_: str) -> list[str]:
    """The types of the events about `id_`, of crictl's stream of JSON objects."""
    found, decoder, rest = [], json.JSONDecoder(), output.lstrip()
    while rest:
        try:
            event, end = decoder.raw_decode(rest)
        except json.JSONDecodeError:
            break
        rest = rest[end:].lstrip()
        if event["containerId"] == id_:
            found.append(event["containerEventType"])
    return found


# changing things


def test_update_changes_limits(crictl: Crictl, container: Container) -> None:
    crictl("update", "--memory", str(64 << 20), "--cpu-share", "512", container.id)
    linux = crictl.json("inspect", container.id)["status"]["resources"]["linux"]
    assert int(linux["memoryLimitInBytes"]) == 64 << 20
    assert int(linux["cpuShares"]) == 512


def test_stop_rm_and_rmp(crictl: Crictl, kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container().start()
    assert crictl("stop", container.id).strip() == container.id
    assert container.status().state == api.CONTAINER_EXITED
    assert crictl("rm", container.id).strip() == container.id
    assert kubelet.containers() == []
    running = pod.container().start()
    crictl("rm", running.id, code=1)
    crictl("rm", "-f", running.id)
    crictl("stopp", pod.id)
    crictl("rmp", pod.id)
    assert kubelet.sandboxes() == []


def test_rmp_fa_removes_everything(crictl: Crictl, kubelet: Kubelet) -> None:
    for _ in range(3):
        kubelet.pod().container().start()
    crictl("rmp", "-fa")
    assert kubelet.sandboxes() == []
    assert kubelet.containers() == []


def test_run_makes_a_pod_and_a_container_of_two_files(
    crictl: Crictl, kubelet: Kubelet, tmp_path: Path
) -> None:
    config = kubelet.config()
    pod = {
        "metadata": {"name": "by-hand", "namespace": "e2e", "uid": "by-hand"},
        "log_directory": config.log_directory,
        "linux": {},
    }
    container = {
        "metadata": {"name": "main"},
        "image": {"image": BUSYBOX},
        "command": ["sh", "-c", "echo from two files"],
        "log_path": "main.log",
        "linux": {},
    }
    (tmp_path / "pod.json").write_text(json.dumps(pod))
    (tmp_path / "container.json").write_text(json.dumps(container))
    words = ("run", str(tmp_path / "container.json"), str(tmp_path / "pod.json"))
    made = crictl(*words).strip()
    until(lambda: made in crictl("ps", "-aq", "--no-trunc", "-s", "exited"), "it has ended")
    assert crictl("logs", made) == "from two files\n"
    crictl("rmp", "-fa")


# the runtime itself


def test_info_and_the_configuration_of_the_runtime(crictl: Crictl) -> None:
    conditions = crictl.json("info")["status"]["conditions"]
    assert {item["type"]: item["status"] for item in conditions} == {
        "RuntimeReady": True,
        "NetworkReady": True,
    }
    assert "CGROUPFS" in crictl("runtime-config").upper()
    crictl("update-runtime-config", "--pod-cidr", "10.77.0.0/16")
    assert "podwright" in crictl("version")
