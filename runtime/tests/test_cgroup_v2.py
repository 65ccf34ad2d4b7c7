"""What only cgroup v2 can do (a hybrid's unified mount will do), and which version there is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.cgroup import files, tree
from runtime.cgroup.errors import CgroupsUnusable
from runtime.cgroup.limits import limits
from runtime.cgroup.v2 import CgroupV2
from runtime.linux import bpf
from runtime.spec import DeviceRule, Resources
from runtime.tests.cgroup_driver import (
    DENY,
    KMSG,
    UNIFIED,
    fresh_path,
    open_device,
    run,
    start_sleeper,
)

pytestmark = pytest.mark.root


@pytest.fixture
def unified() -> Iterator[CgroupV2]:
    """A bare cgroup of v2, without controllers."""
    group = CgroupV2(fresh_path(), UNIFIED)
    if not os.path.exists(f"{UNIFIED}/cgroup.procs"):
        pytest.skip("no cgroup2 mounted")
    files.make(group.directory)
    yield group
    group.kill()
    group.remove(timeout=20)


def run_in_v2(group: CgroupV2, action: Callable[[], object]) -> str:
    return run(group, action)[0]


def test_a_process_is_born_inside(unified: CgroupV2) -> None:
    answer = run_in_v2(unified, lambda: Path("/proc/self/cgroup").read_text())
    assert f"0::{unified.path}\n" in answer


def test_the_device_program_is_taken_and_obeyed(unified: CgroupV2) -> None:
    wanted = limits(Resources(devices=(DENY, KMSG)), 2)
    unified._limit_devices(wanted)
    assert run_in_v2(unified, open_device(1, 3)) == "opened"
    assert run_in_v2(unified, open_device(1, 11)) == "opened"
    assert run_in_v2(unified, open_device(10, 229)) == "EPERM"


def test_a_program_of_the_most_rules_is_taken(unified: CgroupV2) -> None:
    many = [DeviceRule(allow=True, type="c", major=7, minor=n, access="r") for n in range(499)]
    unified._limit_devices(limits(Resources(devices=(DENY, *many)), 2))
    assert run_in_v2(unified, open_device(1, 11)) == "EPERM"


def test_a_bad_program_brings_the_verifiers_words() -> None:
    with pytest.raises(OSError, match="last insn is not an exit"):
        bpf.load(b"\xb4\0\0\0\1\0\0\0", bpf.ProgramType.CGROUP_DEVICE)


def test_cgroup_kill_ends_all(unified: CgroupV2) -> None:
    pid = start_sleeper(unified)
    assert unified.pids() == [pid]
    unified.kill()
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


def test_an_exec_joins_a_container_that_divided_its_cgroup(unified: CgroupV2) -> None:
    """Where processes may no longer be in the cgroup itself, they join the first one's."""
    available = files.read(f"{unified.directory}/cgroup.controllers").split()
    if not available:
        pytest.skip("no controller is handed down here")
    inner = CgroupV2(f"{unified.path}/inner", UNIFIED)
    files.make(inner.directory)
    pid = start_sleeper(inner)
    files.write(f"{unified.directory}/cgroup.subtree_control", f"+{available[0]}")
    for beside, path in ((pid, inner.directory), (os.getpid(), unified.directory)):
        fd = unified.clone_fd(beside=beside)
        assert os.readlink(f"/proc/self/fd/{fd}") == path
        os.close(fd)


# --- which hierarchy a machine has ------------------------------------------------------------


def test_a_unified_hierarchy_is_recognised(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    assert tree.detect(mountinfo=mountinfo).version == 2


def test_a_hybrid_is_version_1_and_shared_mounts_are_one(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(
        "30 22 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "34 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "35 30 0:31 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n"
        "36 30 0:32 / /elsewhere/pids rw - cgroup cgroup rw,pids\n"
    )
    found = tree.detect(mountinfo=mountinfo)
    assert found.version == 1
    assert found.controllers == ("cpu", "cpuacct", "memory", "name=systemd")
    assert found.missing == ("devices", "pids")


def test_a_machine_without_cgroups_says_what_was_looked_for(tmp_path: Path) -> None:
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    with pytest.raises(CgroupsUnusable, match="at /sys/fs/cgroup nor beneath"):
        tree.detect(mountinfo=mountinfo)
