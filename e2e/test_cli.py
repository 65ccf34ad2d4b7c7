"""The command line as a person meets it: what it prints, where, and its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cri.cli.main import main
from e2e.conftest import BUSYBOX
from e2e.images import Image, busybox
from e2e.kubelet import Kubelet, refused, until
from e2e.node import REPOSITORY, Node

Run = Callable[..., Result]

POD = """
kind: Pod
apiVersion: v1
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
{spec}
  containers:
  - name: main
    image: {image}
{container}
"""


@pytest.fixture
def podwright(node: Node, busybox: str) -> Iterator[Run]:
    """Runs the command line, in this process; `code` is the exit code that it has to have."""
    del busybox
    pods = node.directory / "pods"
    environment = {"PODWRIGHT_ADDRESS": node.address, "PODWRIGHT_PODS": str(pods)}

    def run(*words: str, code: int = 0) -> Result:
        done = CliRunner().invoke(main, list(words), env=environment)
        said = (words, done.exit_code, done.stdout, done.stderr)
        assert isinstance(done.exception, SystemExit | None), said
        assert done.exit_code == code, said
        return done

    yield run
    run("rm", "--force", "--all")
    assert not list(pods.glob("*"))


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., str]:
    """Writes a pod's manifest; its path. Lines of the spec and of the container are given."""

    def write(name: str, container: str = "", spec: str = "") -> str:
        path = tmp_path / f"{name}.yaml"
        inner = "\n".join(f"    {line}" for line in container.splitlines())
        outer = "\n".join(f"  {line}" for line in spec.splitlines())
        path.write_text(POD.format(name=name, image=BUSYBOX, container=inner, spec=outer))
        return str(path)

    return write


Manifest = Callable[..., str]


def test_a_pod_is_run_seen_read_entered_stopped_and_removed(
    podwright: Run, manifest: Manifest
) -> None:
    told = podwright("run", manifest("life", "command: [sh, -c, 'echo hello; sleep 1000']")).stdout
    assert told.splitlines()[0] == "pod default/life"
    ip = told.split("ip  ")[1].split()[0]
    header, row = podwright("ps").stdout.splitlines()
    assert header.split() == ["POD", "ID", "STATE", "IP", "AGE", "CONTAINERS"]
    assert row.split()[0] == "default/life"
    assert f" ready  {ip} " in row
    assert row.endswith("main running")
    until(lambda: podwright("logs", "life").stdout == "hello\n", "it has written")
    answer = podwright("exec", "life/main", "--", "sh", "-c", "echo $0; exit 3", code=3)
    assert answer.stdout == "sh\n"
    assert "first" in podwright("rm", "life", code=1).stderr
    podwright("stop", "life")
    assert podwright("ps").stderr.strip() == "1 more that are not ready: podwright ps -a"
    assert "exited (137)" in podwright("ps", "-a").stdout
    podwright("rm", "life")
    assert len(podwright("ps", "-a").stdout.splitlines()) == 1


def test_what_is_ignored_is_said_and_what_is_unknown_is_an_error(
    podwright: Run, manifest: Manifest
) -> None:
    path = manifest("said", "command: [sleep, '1000']\nlivenessProbe: {periodSeconds: 3}")
    told = podwright("run", path)
    assert "ignored: spec.containers[0].livenessProbe (kubelet does this" in told.stderr
    path = manifest("said", "comand: [sleep]")
    told = podwright("run", path, code=1)
    assert told.stderr == (
        f"Error: {path}:11: spec.containers[0].comand: unknown field; did you mean command?\n"
    )


def test_waiting_shows_logs_gives_the_code_and_removes(podwright: Run, manifest: Manifest) -> None:
    path = manifest("brief", "command: [sh, -c, 'echo out; echo err >&2; exit 4']")
    told = podwright("run", "--quiet", "--rm", "--logs", path, code=4)
    assert told.stdout.splitlines()[1:] == ["main | out"]
    assert "main | err" in told.stderr
    assert podwright("ps", "-a", "-q").stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_pod_that_is_waited_for_is_removed_when_the_wait_is_ended(
    node: Node, podwright: Run, manifest: Manifest, number: signal.Signals
) -> None:
    path = manifest("waited", "command: [sleep, '1000']")
    program = str(Path(sys.executable).with_name("podwright"))
    heeding = ("env", "--default-signal")  # we may have been started by nohup
    words = (*heeding, program, "--address", node.address, "run", "--rm", path)
    directory = str(node.directory / "pods")
    with subprocess.Popen(
        node.command(*words), env={**os.environ, "PODWRIGHT_PODS": directory}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as running:  # fmt: skip
        try:
            until(lambda: "main running" in podwright("ps").stdout, "it runs")
            running.send_signal(number)
            _, said = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode != 0
    assert "Traceback" not in said
    assert podwright("ps", "-a", "-q").stdout == ""


def test_init_containers_run_to_their_end_one_after_the_other(
    podwright: Run, manifest: Manifest
) -> None:
    volume = "volumeMounts: [{name: v, mountPath: /v}]"
    spec = f"""
volumes: [{{name: v, emptyDir: {{medium: Memory}}}}]
initContainers:
- {{name: a, image: '{BUSYBOX}', command: [sh, -c, 'sleep 0.2; echo a >> /v/f'], {volume}}}
- {{name: b, image: '{BUSYBOX}', command: [sh, -c, 'echo b >> /v/f'], {volume}}}
"""
    path = manifest("inits", f"command: [cat, /v/f]\n{volume}", spec)
    told = podwright("run", "-q", "--rm", "--logs", path)
    assert told.stdout.splitlines()[1:] == ["main | a", "main | b"]


def test_an_init_container_that_fails_is_quoted_and_nothing_is_left(
    podwright: Run, manifest: Manifest
) -> None:
    spec = (
        f"initContainers: [{{name: a, image: '{BUSYBOX}', command: [sh, -c, 'echo why; exit 9']}}]"
    )
    told = podwright("run", manifest("failing", "", spec), code=1)
    assert told.stderr == "Error: init container a ended with code 9:\nwhy\n"
    assert podwright("ps", "-aq").stdout == ""


def test_a_command_that_is_not_there_is_told_and_nothing_is_left(
    podwright: Run, manifest: Manifest
) -> None:
    told = podwright("run", manifest("wrong", "command: [/no/such]"), code=1)
    assert told.stderr.startswith("Error: container main: ")
    assert "/no/such" in told.stderr
    assert podwright("ps", "-aq").stdout == ""


def test_why_a_container_failed_is_said_beneath_the_pods(podwright: Run, kubelet: Kubelet) -> None:
    container = kubelet.pod().container(["/no/\033[31msuch"])
    refused(container.start)
    told = podwright("ps", "-a")
    assert "exited (128 StartError)" in told.stdout
    assert ": exec: " in told.stderr
    assert "\033" not in told.stderr
    (pod,) = json.loads(podwright("ps", "-o", "json").stdout)
    assert pod["containers"][0]["message"].startswith("exec: ")


def test_the_pod_that_the_manifest_describes_is_the_pod_that_runs(
    podwright: Run, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("from the node")
    container = """
command: [sh, -c, 'id -u; id -G; pwd; echo $WHO $IP; cat /n/file; cat /etc/hosts; hostname -i']
workingDir: /var
env:
- {name: WHO, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
volumeMounts: [{name: n, mountPath: /n, readOnly: true}]
resources: {limits: {memory: 64Mi}}
"""
    spec = f"""
securityContext: {{runAsUser: 1000, runAsGroup: 50, fsGroup: 70}}
hostAliases: [{{ip: 10.9.8.7, hostnames: [elsewhere]}}]
volumes: [{{name: n, hostPath: {{path: {tmp_path}/data, type: Directory}}}}]
"""
    told = podwright("run", "--rm", "--logs", manifest("whole", container, spec)).stdout
    said = [line.removeprefix("main | ") for line in told.splitlines() if " | " in line]
    ip = told.split("ip  ")[1].split()[0]
    assert said[:4] == ["1000", "50 70 1000 2000", "/var", f"whole {ip}"] or set(
        said[1].split()
    ) >= {"50", "70"}
    assert said[4].startswith("from the node")
    assert "10.9.8.7\telsewhere" in said
    assert said[-1] == ip


def test_logs_may_be_followed_cut_and_dated(podwright: Run, manifest: Manifest) -> None:
    script = "for i in 1 2 3; do echo line $i; sleep 0.2; done"
    podwright("run", manifest("talking", f"command: [sh, -c, '{script}']"))
    assert podwright("logs", "-f", "talking").stdout == "line 1\nline 2\nline 3\n"
    assert podwright("logs", "--tail", "1", "talking").stdout == "line 3\n"
    dated = podwright("logs", "-t", "--tail", "1", "talking").stdout
    assert dated.startswith("20")
    assert dated.endswith("Z line 3\n")


def test_a_stop_takes_the_pods_own_time(podwright: Run, manifest: Manifest) -> None:
    script = 'trap "echo asked; exit 0" TERM; echo ready; while :; do sleep 0.02; done'
    podwright("run", manifest("patient", f"command: [sh, -c, '{script}']"))
    until(lambda: podwright("logs", "patient").stdout == "ready\n", "it listens")
    podwright("stop", "patient")
    assert podwright("logs", "patient").stdout == "ready\nasked\n"


def test_images_are_pulled_listed_imported_and_removed(
    podwright: Run, kubelet: Kubelet, tmp_path: Path
) -> None:
    assert podwright("images", "pull", BUSYBOX).stdout.strip() == kubelet.image
    rows = podwright("images").stdout.splitlines()
    assert rows[0].split() == ["IMAGE", "ID", "SIZE"]
    assert any(row.split()[0] == BUSYBOX and " MB" in row for row in rows)
    image = Image([busybox()], {"Labels": {"by": "hand"}})
    layout = image.layout(tmp_path / "layout", "example.com/by/hand:1")
    assert podwright("images", "import", str(layout)).stdout.strip() == image.id
    names = json.loads(podwright("images", "list", "-o", "json").stdout)
    assert ["example.com/by/hand:1"] in [item["names"] for item in names]
    assert podwright("images", "rm", "example.com/by/hand:1").stdout.strip() == image.id
    assert "is not here" in podwright("images", "rm", "example.com/by/hand:1", code=1).stderr


def test_a_trace_shows_each_stage_with_its_time(podwright: Run, manifest: Manifest) -> None:
    podwright("run", manifest("traced", "command: [sleep, '1000']"))
    picture = podwright("trace", "traced").stdout
    for word in (
        "RunPodSandbox default/traced",
        "CreateContainer main",
        "StartContainer main",
        " ms",
    ):
        assert word in picture
    assert "█" in picture
    assert podwright("trace").stdout == picture
    timelines = json.loads(podwright("trace", "-o", "json", "traced").stdout)
    assert [item["rpc"] for item in timelines] == [
        "RunPodSandbox",
        "CreateContainer",
        "StartContainer",
    ]
    assert all(item["duration"] > 0 and item["stages"] for item in timelines)
    podwright("rm", "-f", "traced")
    assert "RemovePodSandbox" in podwright("trace", "--all", "traced").stdout


def test_a_word_that_means_nothing_or_too_much_is_told(podwright: Run, manifest: Manifest) -> None:
    assert podwright("logs", "nobody", code=1).stderr == (
        "Error: there is no container nobody: `podwright ps -a` lists them\n"
    )
    podwright("run", manifest("one", "command: [sleep, '1000']"))
    podwright("run", manifest("two", "command: [sleep, '1000']"))
    assert "main means 2 of them" in podwright("exec", "main", "true", code=1).stderr
    podwright("exec", "one/main", "true")


def test_without_a_daemon_every_verb_says_so_in_one_sentence(
    podwright: Run, manifest: Manifest, tmp_path: Path
) -> None:
    nowhere = ("--address", str(tmp_path / "none.sock"))
    for words in (["ps"], ["images"], ["logs", "x"], ["run", manifest("never")], ["trace"]):
        told = podwright(*nowhere, *words, code=1)
        assert told.stdout == ""
        assert told.stderr.startswith("Error: no daemon answers at unix://")
        assert len(told.stderr.splitlines()) == 1


def test_the_doctor_finds_this_node_fit(node: Node, busybox: str) -> None:
    """As a program on the node, for it is the node that is looked at."""
    del busybox
    program = str(Path(sys.executable).with_name("podwright"))
    words = (program, "--address", node.address, "doctor", "--config", str(node.config))
    told = node.run(*words)
    assert (told.returncode, told.stderr) == (0, "")
    assert "0 in the way of pods" in told.stdout
    lines = [line for line in told.stdout.splitlines() if line.startswith(("✓", "·", "!", "✗"))]
    marks = {line.split()[1]: line[0] for line in lines}
    for about in ("kernel", "overlayfs", "bridge", "nftables", "seccomp", "daemon", "spawner"):
        assert marks[about] == "✓", about
    findings = json.loads(node.run(*words, "-o", "json").stdout)
    assert all(item["remedy"] for item in findings if item["level"] in ("warn", "fail"))


def test_the_example_runs(podwright: Run) -> None:
    podwright("run", str(REPOSITORY / "e2e/pods/hello.yaml"))
    until(
        lambda: "hello from hello" in podwright("logs", "hello/client").stdout,
        "the containers have met",
    )
