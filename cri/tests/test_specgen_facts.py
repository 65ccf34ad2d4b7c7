"""What the node tells about a request; and a path that never answers."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.errors import InvalidRequest, PathHangs, WrongState
from cri.rpc import worker
from cri.rpc.worker import Workers
from cri.specgen import facts
from cri.specgen.subject import Facts
from runtime.spec import Device, DeviceRule


def mounting(path: Path | str) -> facts.Wanted:
    mount = api.Mount(container_path="/x", host_path=str(path))
    return facts.Wanted(api.ContainerConfig(mounts=[mount]))


def test_a_missing_source_and_the_log_s_directory_are_made(tmp_path: Path) -> None:
    wanted = facts.Wanted(mounting(tmp_path / "a/b").config, log_directory=str(tmp_path / "log/c"))
    facts.gather(wanted)
    for made in ("a/b", "log/c"):
        assert stat.S_IMODE((tmp_path / made).stat().st_mode) == 0o755


def test_a_source_behind_a_link_is_as_good_as_the_source(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    facts.gather(mounting(tmp_path / "link"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "link"]


def test_a_source_that_can_t_be_made_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match=r"mounts\[0\]\.host_path: .*Not a directory"):
        facts.gather(mounting(tmp_path / "file" / "below"))
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(InvalidRequest, match="symbolic link to 'nowhere', which is not there"):
        facts.gather(mounting(tmp_path / "dangling"))


def test_a_mount_that_can_t_be_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidRequest, match="'relative' is not absolute"):
        facts.gather(mounting("relative"))
    assert list(tmp_path.iterdir()) == []


def requesting(host_path: str, container_path: str = "", permissions: str = "") -> Facts:
    device = api.Device(host_path=host_path, container_path=container_path, permissions=permissions)
    return facts.gather(facts.Wanted(api.ContainerConfig(devices=[device])))


def test_a_device_is_what_the_node_s_node_is() -> None:
    found = requesting("/dev/null", "/dev/nothing", "r")
    [device] = found.devices
    assert (device.path, device.type, device.major, device.minor) == ("/dev/nothing", "c", 1, 3)
    assert found.device_rules == (DeviceRule(allow=True, type="c", major=1, minor=3, access="r"),)


@pytest.mark.root
def test_a_directory_of_devices_is_walked(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    os.mknod(tmp_path / "sub" / "full", stat.S_IFCHR | 0o600, os.makedev(1, 7))
    (tmp_path / "no-device").touch()
    found = requesting(str(tmp_path), "/dev/all/")
    assert found.devices == (Device("/dev/all/sub/full", "c", 1, 7, file_mode=0o600),)


def test_a_device_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"devices\[0\]\.host_path: .*No such file"):
        requesting("/dev/nope")
    (tmp_path / "file").touch()
    with pytest.raises(InvalidRequest, match="is no device"):
        requesting(str(tmp_path / "file"))
    with pytest.raises(InvalidRequest, match=r"devices\[0\]\.permissions: 'x'"):
        requesting("/dev/null", permissions="x")


def test_a_privileged_container_gets_the_node_s_devices() -> None:
    config = api.ContainerConfig()
    config.linux.security_context.privileged = True
    paths = {device.path for device in facts.gather(facts.Wanted(config)).devices}
    assert "/dev/null" in paths
    assert not any(path.startswith(("/dev/pts/", "/dev/shm/")) for path in paths)


def confined(path: str) -> api.ContainerConfig:
    config = api.ContainerConfig()
    profile = config.linux.security_context.seccomp
    profile.profile_type = api.SecurityProfile.Localhost
    profile.localhost_ref = path
    return config


def test_a_seccomp_profile_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW"}))
    found = facts.gather(facts.Wanted(confined(str(path)))).seccomp
    assert found is not None
    assert found.default_action == "SCMP_ACT_ALLOW"


def test_a_seccomp_profile_that_can_t_be_read_is_whose_fault_it_is(tmp_path: Path) -> None:
    path = str(tmp_path / "missing.json")
    with pytest.raises(InvalidRequest, match=r"seccomp\.localhost_ref: .*missing\.json"):
        facts.gather(facts.Wanted(confined(path)))
    config = api.ContainerConfig()
    config.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
    with pytest.raises(WrongState, match=r"configuration's seccomp_profile .*missing\.json"):
        facts.gather(facts.Wanted(config, default_profile=path))


async def test_a_path_that_hangs_costs_its_own_request_only() -> None:
    workers = Workers()
    dead = threading.Event()
    began = time.monotonic()
    stuck = asyncio.create_task(workers.call(0.2, dead.wait))
    assert await workers.call(5, os.stat, "/") == os.stat("/")
    with pytest.raises(PathHangs, match=r"within 0\.2 s"):
        await stuck
    assert time.monotonic() - began < 5
    dead.set()


async def test_too_many_paths_that_hang_are_refused_until_one_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, "MOST_HANGING", 1)
    workers = Workers()
    dead, freed = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def hang() -> None:
        dead.wait()
        loop.call_soon_threadsafe(freed.set)

    with pytest.raises(PathHangs):
        await workers.call(0.01, hang)
    with pytest.raises(PathHangs, match="earlier requests still hang"):
        await workers.call(5, os.getpid)
    dead.set()
    await freed.wait()
    await asyncio.sleep(0)  # what the thread says right after
    async with asyncio.timeout(5):
        while True:
            try:
                assert await workers.call(5, os.getpid) == os.getpid()
            except PathHangs:
                await asyncio.sleep(0.01)
            else:
                break


async def test_an_error_of_the_call_is_the_caller_s() -> None:
    with pytest.raises(FileNotFoundError):
        await Workers().call(5, os.stat, "/no/such/path")
