"""A container's life, and what its process finds."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import REGISTRY


def security(**fields: object) -> api.LinuxContainerConfig:
    context = api.LinuxContainerSecurityContext(**fields)  # type: ignore[arg-type]  # by name
    return api.LinuxContainerConfig(security_context=context)


def number(value: int) -> api.Int64Value:
    return api.Int64Value(value=value)


def test_a_container_is_created_then_runs_then_has_exited(pod: Pod) -> None:
    container = pod.container(["sh", "-c", "exit 0"])
    created = container.status()
    assert (created.state, created.started_at, created.finished_at) == (api.CONTAINER_CREATED, 0, 0)
    container.start()
    ended = container.wait()
    assert (ended.exit_code, ended.reason) == (0, "Completed")
    assert created.created_at <= ended.started_at <= ended.finished_at <= time.time_ns()


def test_a_status_says_what_was_asked_for(kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container(annotations={"a": "b"}).start()
    status = container.status()
    assert status.metadata == container.config.metadata
    assert status.labels == container.config.labels
    assert status.annotations == {"a": "b"}
    assert status.image_id == kubelet.image
    assert status.image_ref
    assert status.image.image
    assert status.log_path == f"{pod.config.log_directory}/{container.config.log_path}"
    assert status.user.linux == api.LinuxContainerUser(uid=0, gid=0, supplemental_groups=[0])


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 7", 7, "Error"), ("kill -KILL $$", 137, "Error"), ("kill -SEGV $$", 139, "Error")],
)
def test_an_exit_code_is_the_process_own_or_128_and_its_signal(
    kubelet: Kubelet, script: str, code: int, reason: str
) -> None:
    pod = kubelet.pod(kubelet.config(pid=api.POD))  # pid 1 would be immune to its own signals
    status = pod.container(["sh", "-c", script]).start().wait()
    assert (status.exit_code, status.reason) == (code, reason)


def test_the_same_container_asked_for_twice_is_one(pod: Pod) -> None:
    config = pod.container_config(["true"])
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: pod.create(config), range(4)))
    assert len({container.id for container in made}) == 1


def test_a_container_starts_once(pod: Pod) -> None:
    container = pod.container().start()
    assert refused(container.start).code is grpc.StatusCode.FAILED_PRECONDITION
    container.stop()
    assert refused(container.start).code is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, ["entry default"]),
        ({"args": ["a", "b"]}, ["entry a b"]),
        ({"command": ["echo", "own"]}, ["own"]),
        ({"command": ["echo"], "args": ["own", "args"]}, ["own args"]),
    ],
)
def test_command_and_arguments_replace_the_images_by_the_rules(
    kubelet: Kubelet, pod: Pod, fields: dict[str, list[str]], said: list[str]
) -> None:
    image = api.ImageSpec(image=kubelet.pull(f"{REGISTRY}/tests/entry:1"))
    config = pod.container_config((), **fields)
    config.image.CopyFrom(image)
    container = pod.create(config).start()
    container.wait()
    assert container.log() == said


def test_environment_and_directory_are_the_images_with_the_containers_on_top(
    kubelet: Kubelet, pod: Pod
) -> None:
    kubelet.pull(f"{REGISTRY}/tests/entry:1")
    image = api.ImageSpec(image=f"{REGISTRY}/tests/entry:1")
    envs = [api.KeyValue(key="BOTH", value=b"own"), api.KeyValue(key="RAW", value=b"\xff\xfe")]
    script = "pwd; echo $FROM_IMAGE $BOTH; echo $HOME; printf $RAW | od -An -tx1"
    assert pod.run(script, image=image, envs=envs) == ["/var/log", "yes own", "/root", " ff fe"]
    assert pod.run("pwd", working_dir="/made/for/it") == ["/made/for/it"]


def test_the_user_is_the_images_unless_the_container_has_its_own(
    kubelet: Kubelet, pod: Pod
) -> None:
    image = api.ImageSpec(image=kubelet.pull(f"{REGISTRY}/tests/user:1"))
    ids = "id -u; id -g; id -G; echo $HOME"
    assert pod.run(ids, image=image) == ["1000", "1000", "1000 2000", "/home/alice"]
    number_only = security(run_as_user=number(1234), run_as_group=number(77))
    assert pod.run(ids, linux=number_only)[:3] == ["1234", "77", "77"]
    named = security(run_as_username="nobody", supplemental_groups=[5, 6])
    assert pod.run(ids, linux=named)[:3] == ["65534", "65534", "65534 5 6"]
    strict = security(
        run_as_user=number(1000),
        supplemental_groups=[9],
        supplemental_groups_policy=api.SupplementalGroupsPolicy.Strict,
    )
    assert sorted(pod.run("id -G", linux=strict)[0].split()) == ["1000", "9"]


def test_a_mount_shows_the_nodes_directory_and_may_be_read_only(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the node\n")
    mounts = [
        api.Mount(container_path="/rw", host_path=str(tmp_path)),
        api.Mount(container_path="/ro/deep", host_path=str(tmp_path), readonly=True),
        api.Mount(container_path="/one", host_path=str(tmp_path / "file")),
    ]
    said = pod.run(
        "cat /ro/deep/file /one; echo back > /rw/new; touch /ro/deep/x 2>&1 || true", mounts=mounts
    )
    assert said[:2] == ["from the node", "from the node"]
    assert "Read-only" in said[2]
    assert (tmp_path / "new").read_text() == "back\n"
    assert not (tmp_path / "x").exists()


def test_mounts_made_later_pass_in_the_directions_that_were_asked_for(
    kubelet: Kubelet, pod: Pod
) -> None:
    node = kubelet.node
    shared = node.directory / "shared"
    shared.mkdir()
    node.run("mount", "-t", "tmpfs", "shared", str(shared))
    node.run("mount", "--make-shared", str(shared))
    node.run("mkdir", str(shared / "a"), str(shared / "b"))
    try:
        both = api.Mount(
            container_path="/m",
            host_path=str(shared),
            propagation=api.PROPAGATION_BIDIRECTIONAL,
        )
        inward = api.Mount(
            container_path="/m",
            host_path=str(shared),
            propagation=api.PROPAGATION_HOST_TO_CONTAINER,
        )
        config = kubelet.config()
        config.linux.security_context.privileged = True
        special = kubelet.pod(config)
        giver = special.container(mounts=[both], linux=security(privileged=True)).start()
        taker = special.container(mounts=[inward]).start()
        loner = pod.container(
            mounts=[api.Mount(container_path="/m", host_path=str(shared))]
        ).start()
        node.run("mount", "-t", "tmpfs", "x", str(shared / "a"))
        giver.shell("mount -t tmpfs y /m/b")
        mounts = "grep -c ' /m/[ab] ' /proc/self/mountinfo || true"
        assert taker.shell(mounts) == "2"
        assert loner.shell(mounts) == "0"
        assert f"{shared}/b" in node.run("cat", "/proc/self/mountinfo").stdout
    finally:
        kubelet.clean()
        node.run("umount", "--recursive", str(shared))


def test_read_only_may_reach_all_mounts_beneath(kubelet: Kubelet, pod: Pod) -> None:
    node = kubelet.node
    tree = node.directory / "tree"
    (tree).mkdir()
    node.run("mount", "-t", "tmpfs", "tree", str(tree))
    node.run("mkdir", str(tree / "sub"))
    node.run("mount", "-t", "tmpfs", "sub", str(tree / "sub"))
    try:
        plain = api.Mount(container_path="/m", host_path=str(tree), readonly=True)
        deep = api.Mount(
            container_path="/m", host_path=str(tree), readonly=True, recursive_read_only=True
        )
        script = "touch /m/sub/x 2>&1 && echo written || true"
        assert pod.run(script, mounts=[plain]) == ["written"]
        assert "Read-only" in pod.run(script, mounts=[deep])[0]
    finally:
        kubelet.clean()
        node.run("umount", "--recursive", str(tree))


def test_what_the_node_has_mounted_read_only_stays_so(kubelet: Kubelet, pod: Pod) -> None:
    node = kubelet.node
    tree = node.directory / "tree"
    (tree).mkdir(exist_ok=True)
    node.run("mount", "-t", "tmpfs", "tree", str(tree))
    node.run("mount", "--bind", "-o", "remount,ro", str(tree))
    try:
        mount = api.Mount(container_path="/m", host_path=str(tree))
        assert "Read-only" in pod.run("touch /m/x 2>&1 || true", mounts=[mount])[0]
    finally:
        kubelet.clean()
        node.run("umount", str(tree))


def test_devices_proc_and_sys_are_what_programs_expect(pod: Pod) -> None:
    said = pod.run(
        "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c;"
        " ls /dev | tr '\\n' ' '; echo; readlink /dev/fd; stat -fc %T /dev/shm;"
        " grep -c ' /sys ' /proc/self/mountinfo"
    )
    assert said[:2] == ["4", "4"]
    assert {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue",
            "stdin", "stdout", "stderr", "fd"} <= set(said[2].split())  # fmt: skip
    assert said[3:] == ["/proc/self/fd", "tmpfs", "1"]


def test_devices_of_the_node_are_given_with_the_rights_asked_for(pod: Pod) -> None:
    candidates = ("/dev/loop-control", "/dev/fuse", "/dev/vsock")
    known = next(path for path in candidates if Path(path).exists())
    device = api.Device(container_path="/dev/mine", host_path=known, permissions="r")
    script = "(: < /dev/mine) && echo read; (: > /dev/mine) || echo refused"
    said = pod.run(script, devices=[device])
    assert "read" in said
    assert "refused" in said


def test_a_read_only_root_still_has_its_writable_places(pod: Pod) -> None:
    said = pod.run(
        "touch /x 2>&1; touch /dev/shm/x && echo shm; touch /tmp/x 2>&1 || true",
        linux=security(readonly_rootfs=True),
    )
    assert "Read-only" in said[0]
    assert said[1] == "shm"
    assert "Read-only" in said[2]


def test_what_a_container_writes_is_its_own_and_ends_with_it(kubelet: Kubelet, pod: Pod) -> None:
    one = pod.container().start()
    one.shell("echo mine > /root/file; rm /etc/group")
    assert pod.run("ls /root; wc -l < /etc/group") == ["5"]
    upper = kubelet.node.root / "containers" / one.id
    assert upper.exists()
    one.stop()
    one.remove()
    assert not upper.exists()


def test_a_terminal_is_one(pod: Pod) -> None:
    container = pod.container(
        ["sh", "-c", "test -t 0 && test -t 1 && test -t 2 && echo terminal $TERM"], tty=True
    ).start()
    assert container.wait().exit_code == 0
    assert container.log() == ["terminal xterm\r"] or container.log() == ["terminal xterm"]


def test_without_stdin_there_is_nothing_to_read(pod: Pod) -> None:
    assert pod.run("wc -c") == ["0"]


TRAP = "trap 'echo got {0}; exit 5' {0}; echo ready; while :; do sleep 0.02; done"


def trapping(pod: Pod, signal: str, **fields: object) -> Container:
    container = pod.container(["sh", "-c", TRAP.format(signal)], **fields).start()
    until(lambda: container.log() == ["ready"], "it waits for its signal")
    return container


def test_a_stop_asks_first(pod: Pod) -> None:
    container = trapping(pod, "TERM")
    container.stop(grace=10)
    status = container.status()
    assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 5)
    assert container.log()[-1] == "got TERM"


def test_the_signal_that_asks_is_the_containers_then_the_images(kubelet: Kubelet, pod: Pod) -> None:
    own = trapping(pod, "USR2", stop_signal=api.SIGNAL_SIGUSR2)
    own.stop(grace=10)
    assert own.status().exit_code == 5
    image = api.ImageSpec(image=kubelet.pull(f"{REGISTRY}/tests/entry:1"))
    images = trapping(pod, "USR1", image=image)
    images.stop(grace=10)
    assert images.status().exit_code == 5


def test_who_does_not_listen_is_killed_when_the_time_is_over(pod: Pod) -> None:
    container = pod.container().start()  # sleep as pid 1 has no handler for SIGTERM
    started = time.monotonic()
    container.stop(grace=1)
    assert 0.9 < time.monotonic() - started < 5
    assert container.status().exit_code == 137


def test_a_later_stop_can_shorten_the_wait_but_asks_no_second_time(pod: Pod) -> None:
    script = "trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done"
    container = pod.container(["sh", "-c", script]).start()
    until(lambda: container.log() == ["ready"], "it waits for its signal")
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(container.stop, 60)
        until(lambda: "asked" in container.log(), "it was asked")
        started = time.monotonic()
        container.stop(grace=1)
        slow.result(timeout=10)
    assert time.monotonic() - started < 5
    assert container.log() == ["ready", "asked"]
    assert container.status().exit_code == 137


def test_a_status_and_a_list_do_not_wait_for_a_stop(kubelet: Kubelet, pod: Pod) -> None:
    container = trapping(pod, "USR1")
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(container.stop, 2)
        container.status()
        kubelet.containers()
        assert container.exec("true").exit_code == 0
        assert not stop.done()
        stop.result()


def test_a_running_container_is_removed_by_force_and_twice_is_no_error(pod: Pod) -> None:
    container = pod.container().start()
    container.remove()
    container.remove()
    container.stop()
    assert refused(container.status).code is grpc.StatusCode.NOT_FOUND


def test_a_container_that_never_ran_can_be_removed(pod: Pod) -> None:
    container = pod.container()
    container.stop()
    container.remove()


def test_containers_are_found_by_id_its_beginning_pod_state_and_labels(
    kubelet: Kubelet, pod: Pod
) -> None:
    one, other = pod.container().start(), pod.container()

    def ids(**filters: object) -> list[str]:
        return sorted(item.id for item in kubelet.containers(**filters))

    assert ids(pod_sandbox_id=pod.id) == sorted([one.id, other.id])
    assert ids(pod_sandbox_id=pod.id[:12], id=one.id[:12]) == [one.id]
    assert ids(state=api.ContainerStateValue(state=api.CONTAINER_RUNNING)) == [one.id]
    assert ids(label_selector=dict(other.config.labels)) == [other.id]
    assert ids(id="0" * 64) == []


def test_an_image_may_be_named_in_every_way_and_the_answer_is_its_id(
    kubelet: Kubelet, pod: Pod
) -> None:
    named = f"{REGISTRY}/library/busybox"
    for name in (f"{named}:1.35", kubelet.image, kubelet.image.removeprefix("sha256:")[:20]):
        container = pod.container(image=api.ImageSpec(image=name))
        assert container.status().image_id == kubelet.image


def test_a_process_left_behind_ends_with_its_container(kubelet: Kubelet, pod: Pod) -> None:
    container = pod.container(["sh", "-c", "setsid sleep 454545 & sleep 0.1; exit 0"]).start()
    container.wait()
    assert not [words for words in kubelet.node.processes().values() if "454545" in words]
