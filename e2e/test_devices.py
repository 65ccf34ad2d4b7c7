"""Devices: by path, by directory and by name; seen from inside the container and by the kernel."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e.kubelet import Kubelet, Pod, refused
from e2e.node import Node
from e2e.test_container import number, security

Code = grpc.StatusCode
Edits = dict[str, object]
GPU = "vendor.com/gpu"
KNOWN = next(
    path
    for path in ("/dev/loop-control", "/dev/fuse", "/dev/vsock", "/dev/kmsg")
    if Path(path).exists()
)
"""A device that no container has by itself."""


class Specs:
    """The node's CDI files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, name: str, devices: dict[str, Edits], **fields: object) -> Path:
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        listed = [{"name": name, "containerEdits": edits} for name, edits in devices.items()]
        made = {"cdiVersion": "0.7.0", "kind": GPU, "devices": listed, **fields}
        path.write_text(json.dumps(made))  # which is YAML, too
        return path


@pytest.fixture
def specs(node: Node) -> Iterator[Specs]:
    yield Specs(node.directory / "cdi")
    shutil.rmtree(node.directory / "cdi", ignore_errors=True)


def named(*names: str) -> list[api.CDIDevice]:
    return [api.CDIDevice(name=name) for name in names]


def test_a_device_by_name_brings_nodes_mounts_variables_and_groups(
    pod: Pod, specs: Specs, tmp_path: Path
) -> None:
    (tmp_path / "lib").write_text("driver\n")
    lib: Edits = {"hostPath": str(tmp_path / "lib"), "containerPath": "/usr/lib/gpu",
                  "options": ["ro", "nosuid"]}  # fmt: skip
    node: Edits = {"path": "/dev/gpu/0", "hostPath": KNOWN, "permissions": "r", "fileMode": 0o640,
                   "gid": 44}  # fmt: skip
    edits: Edits = {"env": ["GPU=0"], "deviceNodes": [node], "mounts": [lib],
                    "additionalGids": [44]}  # fmt: skip
    specs.write("etc/gpu.yaml", {"0": edits}, containerEdits={"env": ["DRIVER=1"]})
    container = pod.container(
        CDI_devices=named(f"{GPU}=0"), linux=security(run_as_user=number(1000))
    ).start()
    script = (
        "stat -c '%F %a %u:%g %t:%T' /dev/gpu/0; echo $GPU $DRIVER; id -G; cat /usr/lib/gpu;"
        " : < /dev/gpu/0 && echo read; grep -c ' /usr/lib/gpu ro,nosuid' /proc/self/mountinfo"
    )
    known = os.stat(KNOWN).st_rdev
    assert container.shell(script).splitlines() == [
        f"character special file 640 0:44 {os.major(known):x}:{os.minor(known):x}",
        "0 1",
        "1000 44 2000",
        "driver",
        "read",
        "1",
    ]
    writing = container.exec("sh", "-c", ": > /dev/gpu/0")
    assert b"ermission denied" in writing.stderr
    user = container.status().user.linux
    assert (user.uid, user.gid) == (1000, 1000)
    assert sorted(user.supplemental_groups) == [44, 1000, 2000]


def test_the_kernel_refuses_what_the_file_does_not_grant_even_to_root(
    pod: Pod, specs: Specs
) -> None:
    specs.write("etc/g.json", {"r": {"deviceNodes": [{"path": KNOWN, "permissions": "r"}]}})
    said = pod.run(
        f": < {KNOWN} && echo read; (: > {KNOWN}) 2>&1 || true", CDI_devices=named(f"{GPU}=r")
    )
    assert said[0] == "read"
    assert "not permitted" in said[1]
    (without,) = pod.run(f"ls {KNOWN} 2>&1 || true")
    assert "No such file" in without


def test_annotations_ask_for_devices_and_duplicates_count_once(pod: Pod, specs: Specs) -> None:
    specs.write("etc/gpu.json", {"a": {"env": ["LAST=a"]}, "b": {"env": ["LAST=b"]}})
    asked = {"cdi.k8s.io/plugin_1": f"{GPU}=b,{GPU}=a"}
    said = pod.run("echo $LAST", CDI_devices=named(f"{GPU}=a"), annotations=asked)
    assert said == ["b"]


def test_a_later_directory_wins_and_a_new_file_is_seen_by_the_next_container(
    pod: Pod, specs: Specs
) -> None:
    specs.write("etc/gpu.json", {"0": {"env": ["FROM=etc"]}})
    assert pod.run("echo $FROM", CDI_devices=named(f"{GPU}=0")) == ["etc"]
    path = specs.write("run/gpu.json", {"0": {"env": ["FROM=run"]}})
    assert pod.run("echo $FROM", CDI_devices=named(f"{GPU}=0")) == ["run"]
    path.unlink()
    assert pod.run("echo $FROM", CDI_devices=named(f"{GPU}=0")) == ["etc"]


def test_a_device_that_can_not_be_had_says_what_was_read(
    kubelet: Kubelet, pod: Pod, specs: Specs
) -> None:
    before = len(kubelet.containers())
    good = specs.write("etc/gpu.json", {"0": {}, "gone": {"deviceNodes": [{"path": "/dev/gone"}]}})
    missing = refused(lambda: pod.container(CDI_devices=named(f"{GPU}=1")))
    assert missing.code is Code.INVALID_ARGUMENT
    assert missing.message.startswith("config.CDI_devices[0].name: no CDI device vendor.com/gpu=1")
    assert str(good) in missing.message
    gone = refused(lambda: pod.container(CDI_devices=named(f"{GPU}=gone")))
    assert gone.code is Code.FAILED_PRECONDITION
    assert f"{GPU}=gone ({good})" in gone.message
    assert "'/dev/gone'" in gone.message
    twin = specs.write("etc/twin.json", {"0": {}})
    both = refused(lambda: pod.container(CDI_devices=named(f"{GPU}=0")))
    assert str(good) in both.message
    assert str(twin) in both.message
    assert len(kubelet.containers()) == before


LINKS = """set -e
bundle=$(sed 's/.*"bundle": "\\([^"]*\\)".*/\\1/')
root=$(sed 's/.*"root": {"path": "\\([^"]*\\)".*/\\1/' $bundle/config.json)
ln -s libcuda.so.1 $root/usr/lib/libcuda.so"""
"""What the hooks of a GPU's vendor do: find the root by the bundle, and make something in it."""


def hook(kind: str, script: str) -> Edits:
    return {"hookName": kind, "path": "/bin/sh", "args": ["sh", "-c", script]}


def test_a_hook_of_a_device_finds_the_container_and_changes_it(
    pod: Pod, specs: Specs, tmp_path: Path
) -> None:
    (tmp_path / "lib").write_text("driver\n")
    lib: Edits = {"hostPath": str(tmp_path / "lib"), "containerPath": "/usr/lib/libcuda.so.1"}
    edits: Edits = {"mounts": [lib], "hooks": [hook("createContainer", LINKS)]}
    specs.write("etc/gpu.json", {"0": edits})
    for asked in (named(f"{GPU}=0"), []):
        said = pod.run("cat /usr/lib/libcuda.so 2>/dev/null || echo none", CDI_devices=asked)
        assert said == (["driver"] if asked else ["none"])


def test_a_hook_of_a_device_that_fails_is_told_with_what_it_printed(
    kubelet: Kubelet, pod: Pod, specs: Specs
) -> None:
    specs.write(
        "etc/gpu.json", {"0": {"hooks": [hook("prestart", "echo no such GPU >&2; exit 4")]}}
    )
    container = pod.container(CDI_devices=named(f"{GPU}=0"))
    error = refused(container.start)
    assert "prestart hook /bin/sh: exit code 4: no such GPU" in error.message
    status = container.status()
    assert status.state == api.CONTAINER_EXITED


def test_a_directory_gives_all_its_devices_and_nothing_else(pod: Pod, tmp_path: Path) -> None:
    (tmp_path / "by-id").mkdir()
    (tmp_path / "readme").touch()
    known = os.stat(KNOWN)
    os.mknod(tmp_path / "by-id" / "one", stat.S_IFCHR | 0o600, known.st_rdev)
    os.mknod(tmp_path / "two", stat.S_IFCHR | 0o600, known.st_rdev)
    (tmp_path / "two").chmod(0o660)
    device = api.Device(container_path="/dev/set", host_path=str(tmp_path), permissions="r")
    said = pod.run(
        "find /dev/set -type c -exec stat -c '%n %a' {} + | sort; ls /dev/set;"
        " : < /dev/set/two && echo read; (: > /dev/set/two) 2>&1 || true",
        devices=[device],
    )
    assert said[:5] == ["/dev/set/by-id/one 600", "/dev/set/two 660", "by-id", "two", "read"]
    assert "not permitted" in said[5]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host_path": "/dev/null", "permissions": "rx"}, "devices[0].permissions: 'rx'"),
        ({"host_path": "/dev/nope"}, "devices[0].host_path: '/dev/nope': No such file"),
        ({"host_path": "/etc/passwd"}, "devices[0].host_path: '/etc/passwd' is no device"),
        ({"host_path": "/dev/null\0x"}, "devices[0].host_path: "),
        ({"host_path": "/"}, "devices[0].host_path: '/' has more than 16384 files"),
    ],
)
def test_a_device_that_can_not_be_names_its_field(
    pod: Pod, fields: dict[str, str], words: str
) -> None:
    device = api.Device(container_path="/dev/x", **fields)
    error = refused(lambda: pod.container(devices=[device]))
    assert error.code is Code.INVALID_ARGUMENT
    assert words in error.message
