"""Commands in a running container."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.test_container import number, security

SIXTEEN_MIB = 16 << 20


@pytest.fixture
def container(pod: Pod) -> Container:
    return pod.container().start()


def test_a_command_answers_with_its_output_and_its_code(container: Container) -> None:
    answer = container.exec("sh", "-c", "echo out; echo err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\n", b"err\n", 3)
    assert container.exec("sh", "-c", "kill -9 $$").exit_code == 137


def test_a_command_runs_where_and_as_whom_the_container_runs(pod: Pod) -> None:
    linux = security(run_as_user=number(1000), no_new_privs=True)
    linux.security_context.capabilities.drop_capabilities.append("ALL")
    container = pod.container(
        envs=[api.KeyValue(key="A", value=b"1")], working_dir="/var", linux=linux
    ).start()
    status = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status"
    said = container.shell(f"id -u; pwd; echo $A $HOSTNAME; {status}").splitlines()
    assert said[:3] == ["1000", "/var", f"1 {pod.config.hostname}"]
    assert [line.split()[1] for line in said[3:]] == ["0000000000000000", "1", "0"]


def test_a_command_sees_the_containers_processes_and_is_in_its_cgroup(container: Container) -> None:
    assert container.shell("cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 1000000"
    assert container.shell("diff /proc/self/cgroup /proc/1/cgroup && echo same") == "same"


def test_a_time_limit_ends_the_command_and_all_that_it_started(
    kubelet: Kubelet, container: Container
) -> None:
    script = "setsid sleep 464646 & sh -c 'sleep 464647' & sleep 464648"
    started = time.monotonic()
    error = refused(lambda: container.exec("sh", "-c", script, timeout=1))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert 0.9 < time.monotonic() - started < 5
    running = " ".join(kubelet.node.processes().values())
    assert "46464" not in running
    assert "sleep 1000000" in running


def test_a_child_that_keeps_the_pipes_does_not_keep_the_call(container: Container) -> None:
    started = time.monotonic()
    answer = container.exec("sh", "-c", "echo done; sleep 1000 &", timeout=0)
    assert (answer.stdout, answer.exit_code) == (b"done\n", 0)
    assert time.monotonic() - started < 5


def test_what_is_beyond_16_mib_is_thrown_away(container: Container) -> None:
    answer = container.exec("sh", "-c", "head -c 20000000 /dev/zero; echo e >&2", timeout=30)
    assert (len(answer.stdout), answer.stderr, answer.exit_code) == (SIXTEEN_MIB, b"e\n", 0)


def test_a_command_reads_nothing(container: Container) -> None:
    assert container.exec("cat").stdout == b""


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("no-such-command",), "no-such-command"),
        (("/bin/none",), "/bin/none"),
        (("/etc/passwd",), "/etc/passwd"),
    ],
)
def test_a_command_that_can_not_run_is_told(
    container: Container, command: tuple[str, ...], said: str
) -> None:
    error = refused(lambda: container.exec(*command))
    assert said in error.message
    assert error.code is not grpc.StatusCode.INTERNAL


def test_an_empty_command_is_refused(container: Container) -> None:
    assert refused(container.exec).code is grpc.StatusCode.INVALID_ARGUMENT


def test_there_is_no_command_in_what_does_not_run(pod: Pod) -> None:
    created = pod.container(["true"])
    assert refused(lambda: created.exec("true")).code is grpc.StatusCode.FAILED_PRECONDITION
    created.start().wait()
    assert refused(lambda: created.exec("true")).code is grpc.StatusCode.FAILED_PRECONDITION
    nobody = Container(pod.kubelet, "d" * 64, created.config)
    assert refused(lambda: nobody.exec("true")).code is grpc.StatusCode.NOT_FOUND


def test_many_commands_run_at_a_time(container: Container) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda i: container.exec("echo", str(i)).stdout, range(60)))
    assert answers == [b"%d\n" % i for i in range(60)]


def test_commands_leave_no_zombies_where_pid_1_is_ours(kubelet: Kubelet) -> None:
    container = kubelet.pod(kubelet.config(pid=api.POD)).container().start()
    for _ in range(5):
        container.exec("sh", "-c", "sleep 0.01 & exit 0")
    zombies = "grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l"
    until(lambda: container.shell(zombies) == "0", "no zombie is left")


def test_a_command_that_waits_ends_with_its_container(container: Container) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(container.exec, "sleep", "1000", timeout=0)
        until(lambda: "sleep 1000\n" in container.shell("ps -o args") + "\n", "it runs")
        container.stop()
        assert waiting.result(timeout=10).exit_code == 137
