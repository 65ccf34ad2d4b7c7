"""SELinux, as the kernel enforces it; and what is said on a node whose kernel has none.

Labels are looked at where the kernel shows them to the node: /proc/<pid>/attr/current, mountinfo,
security.selinux of files. e2e/selinux/README.md says how a machine gets SELinux.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.conftest import BUSYBOX
from e2e.handlers import tables
from e2e.kubelet import Container, Kubelet, Pod, refused
from e2e.node import Node
from e2e.test_apparmor import container_pid
from e2e.test_container import security
from runtime.selinux import node as kernel
from runtime.selinux.label import Label, categories
from runtime.selinux.relabel import XATTR

ON = kernel.enabled()
ENFORCING = ON and kernel.enforcing()
needs_selinux = pytest.mark.skipif(
    not ON, reason="SELinux is off on this machine: see e2e/selinux/README.md"
)
needs_enforcing = pytest.mark.skipif(
    not ENFORCING, reason="SELinux does not enforce on this machine: see e2e/selinux/README.md"
)
FIELD = "config.linux.security_context.selinux_options"
PAIR = re.compile(r"s0:c\d+,c\d+")
FOREVER = ("sleep", "1000000")


def options(**fields: str) -> api.SELinuxOption:
    return api.SELinuxOption(**fields)


def process(container: Container, pod: Pod) -> Label:
    """The label of its first process, as the node's kernel tells it."""
    attr = Path(f"/proc/{container_pid(container.id, pod)}/attr/current")
    return Label.parse(attr.read_text().rstrip("\0\n"))


def contexts(container: Container, pod: Pod) -> dict[str, str]:
    """Mount point -> label, of the container's mounts that have one."""
    found = {}
    for line in (
        Path(f"/proc/{container_pid(container.id, pod)}/mountinfo").read_text().splitlines()
    ):
        if match := re.search(r'[ ,]context="?([^", ]+(?:,c\d+)*)', line):
            found[line.split()[4]] = match[1]
    return found


def file_label(path: str | Path) -> str:
    return os.getxattr(path, XATTR, follow_symlinks=False).rstrip(b"\0").decode()


@pytest.fixture
def volume(node: Node) -> Iterator[Path]:
    """A directory of a volume, with what a relabelling could stumble over."""
    path = node.directory / "volume"
    (path / "deep/er").mkdir(parents=True)
    (path / "deep/er/file").write_text("inside\n")
    outside = node.directory / "outside"
    outside.write_text("of the node\n")
    (path / "link").symlink_to(outside)
    (path / "directory").symlink_to("/etc")
    os.mkfifo(path / "fifo")
    yield path
    node.run("rm", "-rf", str(path), str(outside))


def mounted(path: Path, *, relabel: bool = True) -> list[api.Mount]:
    return [api.Mount(container_path="/volume", host_path=str(path), selinux_relabel=relabel)]


# anywhere


@pytest.mark.skipif(ON, reason="SELinux is on here")
def test_where_selinux_is_off_labels_mean_nothing(kubelet: Kubelet, volume: Path) -> None:
    asked = options(user="u", role="r", type="t", level="s0:c1,c2")
    config = kubelet.config()
    config.linux.security_context.selinux_options.CopyFrom(asked)
    pod = kubelet.pod(config)
    said = pod.run(
        "cat /volume/deep/er/file", linux=security(selinux_options=asked), mounts=mounted(volume)
    )
    assert said == ["inside"]


@pytest.mark.parametrize(
    ("name", "value"), [("level", "s0,c4,c5"), ("type", "a:b"), ("user", 'x"'), ("role", "a b")]
)
def test_what_can_be_no_label_is_refused_on_every_node(
    kubelet: Kubelet, pod: Pod, name: str, value: str
) -> None:
    asked = options(**{name: value})
    config = kubelet.config()
    config.linux.security_context.selinux_options.CopyFrom(asked)
    for call in (
        lambda: kubelet.pod(config),
        lambda: pod.container(linux=security(selinux_options=asked)),
    ):
        error = refused(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.message.startswith(f"{FIELD}.{name}: {value!r}")


# where it is on


@needs_selinux
def test_the_containers_of_a_pod_share_a_label_that_no_other_pod_has(kubelet: Kubelet) -> None:
    seen = set()
    for _ in range(3):
        pod = kubelet.pod()
        first, second = (pod.container(FOREVER).start() for _ in range(2))
        label = process(first, pod)
        assert (label.user, label.role, label.type) == ("system_u", "system_r", "container_t")
        assert PAIR.fullmatch(label.level)
        assert process(second, pod) == label
        seen.add(label.level)
    assert len(seen) == 3


@needs_selinux
def test_commands_have_the_containers_label(pod: Pod) -> None:
    container = pod.container(FOREVER).start()
    label = str(process(container, pod))
    assert container.shell("cat /proc/self/attr/current").rstrip("\0") == label
    assert pod.run("cat /proc/self/attr/current", linux=security(no_new_privs=True)) == [
        label + "\0"
    ]


@needs_selinux
def test_the_first_process_of_a_pod_that_shares_its_pids_is_labelled_as_the_others(
    kubelet: Kubelet,
) -> None:
    pod = kubelet.pod(kubelet.config(pid=api.POD))
    container = pod.container(FOREVER).start()
    label = str(process(container, pod))
    assert container.shell("cat /proc/1/attr/current").rstrip("\0") == label
    assert "container_file_t" in container.shell("cat /proc/1/mountinfo")


@needs_selinux
def test_all_that_is_mounted_for_a_container_has_the_label_of_its_files(pod: Pod) -> None:
    linux = security(masked_paths=["/proc/acpi", "/proc/timer_list", "/sys/firmware"])
    container = pod.container(FOREVER, linux=linux).start()
    label = f"system_u:object_r:container_file_t:{process(container, pod).level}"
    found = contexts(container, pod)
    assert set(found.values()) == {label}
    assert {"/", "/dev", "/dev/pts", "/dev/shm"} <= set(found)
    root = f"/proc/{container_pid(container.id, pod)}/root"
    for name in ("bin/busybox", "etc/hosts", "etc/resolv.conf", "dev/mqueue", "dev/null"):
        assert file_label(f"{root}/{name}") == label, name
    assert "container_file_t" not in file_label(f"{root}/proc/1")
    works = "cat /etc/hosts >/dev/null && echo x >/dev/shm/x && echo x >/dev/null && touch /x"
    assert container.shell(f"{works} && mkdir /dev/mqueue/../shm/y && echo works") == "works"


@needs_selinux
def test_what_is_asked_for_counts_field_by_field(kubelet: Kubelet) -> None:
    config = kubelet.config()
    config.linux.security_context.selinux_options.level = "s0:c4,c5"
    pod = kubelet.pod(config)
    plain = pod.container(FOREVER).start()
    assert process(plain, pod).level == "s0:c4,c5"
    assert contexts(plain, pod)["/"].endswith(":container_file_t:s0:c4,c5")
    own = pod.container(
        FOREVER, linux=security(selinux_options=options(level="s0:c7.c9", type="spc_t"))
    ).start()
    assert str(process(own, pod)) == "system_u:system_r:spc_t:s0:c7.c9"
    assert contexts(own, pod)["/"].endswith(":container_file_t:s0:c7.c9")


@needs_selinux
@pytest.mark.parametrize(
    ("name", "value"),
    [("type", "no_such_type_t"), ("user", "nobody_u"), ("level", "s0:c5000"), ("role", "sysadm_r")],
)
def test_a_label_that_the_kernel_does_not_know_is_told_with_its_field(
    kubelet: Kubelet, pod: Pod, name: str, value: str
) -> None:
    asked = options(**{name: value})
    config = kubelet.config()
    config.linux.security_context.selinux_options.CopyFrom(asked)
    before = len(kubelet.sandboxes())
    for call in (
        lambda: pod.container(linux=security(selinux_options=asked)),
        lambda: kubelet.pod(config),
    ):
        error = refused(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert error.message.startswith(f"{FIELD}.{name}: {value!r}")
    assert len(kubelet.sandboxes()) == before


@needs_selinux
def test_who_has_the_node_is_not_confined_but_labelled(kubelet: Kubelet) -> None:
    privileged = kubelet.config()
    privileged.linux.security_context.privileged = True
    node_pids = kubelet.config(pid=api.NODE)
    node_ipc = kubelet.config()
    node_ipc.linux.security_context.namespace_options.ipc = api.NODE
    mqueue = file_label("/dev/mqueue")
    for config in (privileged, node_pids, node_ipc):
        pod = kubelet.pod(config)
        linux = security(privileged=config is privileged)
        container = pod.container(FOREVER, linux=linux).start()
        assert str(process(container, pod)) == "system_u:system_r:spc_t:s0"
        assert len(categories(Label.parse(contexts(container, pod)["/"]).level)) == 2
    assert file_label("/dev/mqueue") == mqueue
    pod = kubelet.pod(privileged := kubelet.config(linux=privileged.linux))
    confined = options(type="container_t")
    linux = security(privileged=True, selinux_options=confined)
    label = process(pod.container(FOREVER, linux=linux).start(), pod)
    assert label.type == "container_t"
    assert PAIR.fullmatch(label.level)


@needs_selinux
def test_a_pod_keeps_its_label_when_the_daemon_changes(kubelet: Kubelet, node: Node) -> None:
    pod = kubelet.pod()
    before = pod.container(FOREVER).start()
    waiting = pod.container(FOREVER)
    label = process(before, pod)
    node.restart_daemon()
    assert before.shell("cat /proc/self/attr/current").rstrip("\0") == str(label)
    assert process(waiting.start(), pod) == label
    assert process(pod.container(FOREVER).start(), pod) == label
    other = kubelet.pod()
    assert process(other.container(FOREVER).start(), other).level != label.level


@needs_selinux
def test_a_volume_is_relabelled_and_nothing_that_it_points_to(pod: Pod, volume: Path) -> None:
    outside = file_label(volume.parent / "outside"), file_label("/etc")
    container = pod.container(FOREVER, mounts=mounted(volume)).start()
    label = f"system_u:object_r:container_file_t:{process(container, pod).level}"
    for name in ("", "deep", "deep/er", "deep/er/file", "link", "directory", "fifo"):
        assert file_label(volume / name) == label, name
    assert (file_label(volume.parent / "outside"), file_label("/etc")) == outside
    assert container.shell("cat /volume/deep/er/file") == "inside"


@needs_selinux
def test_a_volume_that_nobody_wants_relabelled_stays_as_it_is(pod: Pod, volume: Path) -> None:
    before = file_label(volume)
    pod.container(FOREVER, mounts=mounted(volume, relabel=False)).start()
    assert file_label(volume) == before


@needs_selinux
def test_the_nodes_own_directories_are_never_relabelled(pod: Pod, node: Node, volume: Path) -> None:
    before = file_label("/etc"), file_label(node.root)
    (volume / "deep/etc").mkdir()
    node.run("mount", "--bind", "/etc", str(volume / "deep/etc"))
    try:
        for path in ("/etc", "/usr/../etc/", f"{volume}/directory", node.root, node.state, volume):
            error = refused(functools.partial(pod.container, mounts=mounted(Path(path))))
            assert error.code is grpc.StatusCode.INVALID_ARGUMENT
            assert error.message.startswith("config.mounts[0].selinux_relabel: ")
            assert "belongs to the node" in error.message
    finally:
        node.run("umount", str(volume / "deep/etc"))
    assert (file_label("/etc"), file_label(node.root)) == before


@needs_selinux
def test_a_file_system_without_labels_of_its_own_is_told(pod: Pod, node: Node) -> None:
    place = node.directory / "fixed"
    place.mkdir()
    label = "context=system_u:object_r:tmp_t:s0"
    node.run("mount", "-t", "tmpfs", "-o", label, "tmpfs", str(place))
    try:
        error = refused(lambda: pod.container(mounts=mounted(place)))
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "selinux_relabel" in error.message
        assert "keeps no labels" in error.message
    finally:
        node.run("umount", str(place))
        place.rmdir()


@needs_selinux
def test_an_image_that_is_a_volume_has_the_label_of_the_containers_files(
    kubelet: Kubelet, pod: Pod
) -> None:
    image = api.ImageSpec(image=BUSYBOX)
    mounts = [api.Mount(container_path="/image", image=image, readonly=True)]
    container = pod.container(FOREVER, mounts=mounts).start()
    assert contexts(container, pod)["/image"] == contexts(container, pod)["/"]
    assert "busybox" in container.shell("ls /image/bin")


@needs_selinux
def test_a_pod_with_users_of_its_own_is_labelled_too(kubelet: Kubelet) -> None:
    ids = [api.IDMapping(container_id=0, host_id=1000000, length=65536)]
    config = kubelet.config()
    config.linux.security_context.namespace_options.userns_options.CopyFrom(
        api.UserNamespace(mode=api.POD, uids=ids, gids=ids)
    )
    pod = kubelet.pod(config)
    container = pod.container(FOREVER).start()
    assert process(container, pod).type == "container_t"
    assert contexts(container, pod)["/"].endswith(process(container, pod).level)
    assert container.shell("touch /x && cat /etc/hosts >/dev/null && echo works") == "works"


@needs_selinux
def test_switched_off_by_configuration_new_pods_have_none_and_old_ones_keep_theirs(
    kubelet: Kubelet, node: Node
) -> None:
    old = kubelet.pod()
    label = process(old.container(FOREVER).start(), old)
    node.more_config = '\n[containers]\nselinux = "off"\n'
    node.restart_daemon()
    try:
        new = kubelet.pod()
        asked = options(type="container_t", level="s0:c1,c2")
        container = new.container(FOREVER, linux=security(selinux_options=asked)).start()
        assert process(container, new).type != "container_t"
        assert contexts(container, new) == {}
        assert process(old.container(FOREVER).start(), old) == label
    finally:
        node.more_config = ""
        node.restart_daemon()


@needs_selinux
@pytest.mark.skipif(shutil.which("runc") is None, reason="runc is not installed")
def test_a_program_for_containers_gives_the_same_labels(kubelet: Kubelet, node: Node) -> None:
    node.more_config = tables()
    node.restart_daemon()
    try:
        pod = kubelet.pod(handler="runc")
        container = pod.container(FOREVER).start()
        label = process(container, pod)
        assert (label.type, bool(PAIR.fullmatch(label.level))) == ("container_t", True)
        assert contexts(container, pod)["/"] == f"system_u:object_r:container_file_t:{label.level}"
        assert container.shell("cat /proc/self/attr/current").rstrip("\0") == str(label)
        kubelet.clean()
    finally:
        node.more_config = ""
        node.restart_daemon()


# where it enforces


@needs_enforcing
def test_a_container_can_not_touch_the_nodes_files(pod: Pod, volume: Path) -> None:
    linux = security(capabilities=api.Capability(add_capabilities=["ALL"]))
    container = pod.container(FOREVER, mounts=mounted(volume, relabel=False), linux=linux).start()
    for command in ("cat /volume/deep/er/file", "echo x > /volume/new", "ls /volume"):
        answer = container.exec("sh", "-c", command)
        assert answer.exit_code != 0
        assert b"Permission denied" in answer.stderr


@needs_enforcing
def test_a_pod_can_not_touch_the_files_of_another_pod(kubelet: Kubelet, volume: Path) -> None:
    mine, theirs = kubelet.pod(), kubelet.pod()
    container = mine.container(FOREVER, mounts=mounted(volume)).start()
    assert container.shell("echo x > /volume/new && cat /volume/new") == "x"
    thief = theirs.container(FOREVER, mounts=mounted(volume, relabel=False)).start()
    answer = thief.exec("cat", "/volume/deep/er/file")
    assert answer.exit_code != 0
    assert b"Permission denied" in answer.stderr
