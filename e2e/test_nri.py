"""NRI plugins hear of pods and containers and change them: seen by container and kernel."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.api import api_pb2 as api
from e2e import nri
from e2e.kubelet import Container, Kubelet, Pod, refused, until
from e2e.node import Node
from e2e.nri import Plugins
from e2e.test_devices import GPU, KNOWN, Specs
from e2e.test_limits import DISK, MIB, UNIFIED, control, resources
from e2e.test_update import update

Code = grpc.StatusCode


@pytest.fixture
def plugins(node: Node) -> Iterator[Plugins]:
    with nri.plugins(node) as made:
        yield made


@pytest.fixture
def specs(node: Node) -> Iterator[Specs]:
    made = Specs(node.directory / "cdi")
    yield made
    for file in made.directory.rglob("*.json"):
        file.unlink()


def value(number: int) -> dict[str, int]:
    return {"value": number}


def adjusting(**adjustment: object) -> dict[str, object]:
    return {"adjust": adjustment}


def linux(**fields: object) -> dict[str, object]:
    return adjusting(linux=fields)


def limits(**fields: object) -> dict[str, object]:
    return linux(resources=fields)


def test_a_plugin_hears_of_a_whole_life_in_its_order(kubelet: Kubelet, plugins: Plugins) -> None:
    scribe = plugins("scribe")
    pod = kubelet.pod()
    container = pod.container(["sleep", "100"], annotations={"a": "b"})
    container.start()
    update(container, cpu_shares=100)
    container.stop()
    container.remove()
    kubelet.clean()
    assert scribe.calls(container.id) == [
        *("create", "post_create", "start", "post_start"),
        *("update", "post_update", "stop", "remove"),
    ]
    assert [call for call in scribe.calls(pod.id) if "pod" in call] == [
        *("run_pod", "stop_pod", "remove_pod"),
    ]
    (run,) = scribe.heard("run_pod")
    assert run["message"]["name"] == pod.config.metadata.name
    assert run["message"]["ips"][0].startswith("10.77.")
    created, started = scribe.heard("create")[0], scribe.heard("post_start")[0]
    assert created["container"]["args"] == ["sleep", "100"]
    assert created["container"]["annotations"] == {"a": "b"}
    assert created["container"]["state"] == "CONTAINER_CREATED"
    assert created["container"]["image"]["digest"].startswith("sha256:")
    assert started["container"]["state"] == "CONTAINER_RUNNING"
    assert started["container"]["pid"] > 1
    assert scribe.heard("stop")[0]["container"]["exit_code"] == 137


def test_an_end_that_nobody_asked_for_is_told_without_waiting(pod: Pod, plugins: Plugins) -> None:
    scribe = plugins("scribe")
    container = pod.container(["sh", "-c", "exit 3"]).start()
    until(lambda: "stop" in scribe.calls(container.id), "the end is told")
    assert scribe.heard("stop")[0]["container"]["exit_code"] == 3
    never = pod.container()
    never.remove()
    assert scribe.calls(never.id) == ["create", "post_create", "stop", "remove"]


def test_the_end_of_a_pod_is_told_after_those_of_its_containers(
    kubelet: Kubelet, plugins: Plugins
) -> None:
    scribe = plugins("scribe")
    pod = kubelet.pod()
    first, second = pod.container().start(), pod.container().start()
    pod.stop()
    calls = [(one["call"], one.get("container", {}).get("id")) for one in scribe.heard()]
    ends = calls.index(("stop", first.id)), calls.index(("stop", second.id))
    assert max(ends) < calls.index(("stop_pod", None))
    pod.stop()
    assert scribe.calls(pod.id).count("stop_pod") == 1


def test_the_process_is_what_plugins_want(pod: Pod, plugins: Plugins, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the node\n")
    plugins(
        "many",
        create=adjusting(
            env=[{"key": "ADDED", "value": "by NRI"}, {"key": "-GONE"}],
            args=["sh", "-c", "echo $ADDED,$GONE,$KEPT; ulimit -Sn; ulimit -Hn;"
                  " cat /mnt/file; (: > /mnt/new) 2>&1; cat /proc/self/oom_score_adj; sleep 9999"],
            mounts=[{"destination": "/mnt", "source": str(tmp_path), "options": ["rbind", "ro"]}],
            rlimits=[{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
            linux={"oom_score_adj": value(555)},
        ),
    )  # fmt: skip
    envs = [api.KeyValue(key="GONE", value=b"x"), api.KeyValue(key="KEPT", value=b"yes")]
    container = pod.container(["echo", "as asked"], envs=envs).start()
    until(lambda: len(container.log()) >= 6, "it has said everything")
    said = container.log()
    assert said[:4] == ["by NRI,,yes", "77", "88", "from the node"]
    assert "Read-only file system" in said[4]
    assert said[5] == "555"


def test_a_mount_may_be_taken_away(pod: Pod, plugins: Plugins, tmp_path: Path) -> None:
    plugins("less", create=adjusting(mounts=[{"destination": "-/data"}]))
    mount = api.Mount(container_path="/data", host_path=str(tmp_path))
    assert pod.run("ls -d /data 2>&1 || true", mounts=[mount])[0].endswith(
        "No such file or directory"
    )


def test_devices_come_by_number_and_by_name(pod: Pod, plugins: Plugins, specs: Specs) -> None:
    known = os.stat(KNOWN).st_rdev
    specs.write("etc/gpu.json", {"0": {"env": ["GPU=zero"]}})
    device = {
        "path": "/dev/extra",
        "type": "c",
        "major": os.major(known),
        "minor": os.minor(known),
        "file_mode": value(0o640),
        "gid": value(7),
    }
    plugins("devices", create=adjusting(CDI_devices=[{"name": f"{GPU}=0"}],
                                        linux={"devices": [device]}))  # fmt: skip
    container = pod.container().start()
    assert container.shell("stat -c '%F %a %g' /dev/extra") == "character special file 640 7"
    assert container.shell("cat /proc/1/environ | tr '\\0' '\\n' | grep GPU") == "GPU=zero"
    made = os.stat(f"/proc/{_pid(container)}/root/dev/extra")
    assert (made.st_rdev, stat.S_ISCHR(made.st_mode)) == (known, True)


def _pid(container: Container) -> int:
    found: int = json.loads(container.response(verbose=True).info["info"])["pid"]
    return found


def test_limits_are_what_plugins_want_and_are_told_so(pod: Pod, plugins: Plugins) -> None:
    plugins(
        "limits",
        create=limits(
            memory={"limit": value(64 * MIB), "reservation": value(32 * MIB)},
            cpu={
                "quota": value(25_000),
                "period": value(50_000),
                "shares": value(333),
                "cpus": "0",
            },
            pids={"limit": 99},
        ),
    )
    container = pod.container(linux=resources(memory_limit_in_bytes=200 * MIB)).start()
    memory = control(container, "memory", "memory.limit_in_bytes", "memory.max")
    assert memory == str(64 * MIB)
    low = control(container, "memory", "memory.soft_limit_in_bytes", "memory.low")
    assert low == str(32 * MIB)
    assert control(container, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert control(container, "pids", "pids.max", "pids.max") == "99"
    if not UNIFIED:
        assert control(container, "cpu", "cpu.cfs_quota_us", "") == "25000"
        assert control(container, "cpu", "cpu.shares", "") == "333"
    said = container.status().resources.linux
    assert (said.memory_limit_in_bytes, said.cpu_quota, said.cpuset_cpus) == (64 * MIB, 25_000, "0")


def test_a_seccomp_policy_is_the_plugins(pod: Pod, plugins: Plugins) -> None:
    policy = {
        "default_action": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errno_ret": value(122)}
        ],
    }
    plugins("policy", create=linux(seccomp_policy=policy))
    assert "quota exceeded" in pod.run("mkdir /x 2>&1 || true")[0].lower()


def test_the_cgroup_namespace_may_be_taken_away(pod: Pod, plugins: Plugins) -> None:
    plugins("namespaces", create=linux(namespaces=[{"type": "-cgroup"}]))
    container = pod.container().start()
    assert container.id in container.shell("cat /proc/self/cgroup")


def test_processor_disk_and_memory_are_scheduled_as_plugins_want(
    pod: Pod, plugins: Plugins
) -> None:
    plugins(
        "schedules",
        create=linux(
            scheduler={"policy": "SCHED_BATCH", "nice": 5},
            io_priority={"class": "IOPRIO_CLASS_IDLE", "priority": 0},
            memory_policy={"mode": "MPOL_INTERLEAVE", "nodes": "0"},
        ),
    )
    container = pod.container(["sh", "-c", "sleep 1000; true"]).start()
    pid = _pid(container)
    assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    assert "interleave:0" in Path(f"/proc/{pid}/numa_maps").read_text()
    assert container.shell("ionice -p 1") == "idle"


def test_what_the_kernel_refuses_is_said_by_its_field(pod: Pod, plugins: Plugins) -> None:
    plugins("schedules", create=linux(memory_policy={"mode": "MPOL_BIND", "nodes": "999"}))
    error = refused(pod.container().start)
    assert "the kernel refuses the linux.memoryPolicy" in error.message


def test_annotations_are_told_to_those_who_come_later(pod: Pod, plugins: Plugins) -> None:
    plugins("first", "10", create=adjusting(annotations={"mark": "1", "-given": ""}))
    second = plugins("second", "20")
    container = pod.container(annotations={"given": "x", "kept": "y"})
    assert second.heard("create")[0]["container"]["annotations"] == {"mark": "1", "kept": "y"}
    assert second.heard("post_create")[0]["container"]["annotations"] == {"mark": "1", "kept": "y"}
    assert dict(container.status().annotations) == {"given": "x", "kept": "y"}


def test_the_same_request_again_gets_the_container_that_plugins_changed(
    pod: Pod, plugins: Plugins
) -> None:
    plugins("limits", create=limits(memory={"limit": value(64 * MIB)}))
    config = pod.container_config(["true"])
    assert pod.create(config).id == pod.create(config).id


def test_hooks_of_plugins_run_at_their_moments(pod: Pod, plugins: Plugins, tmp_path: Path) -> None:
    def hook(kind: str) -> list[dict[str, object]]:
        script = f'grep -o \'"id": *"[0-9a-f]*"\' > {tmp_path}/{kind}'
        return [{"path": "/bin/sh", "args": ["sh", "-c", script]}]

    kinds = ("create_runtime", "poststart", "poststop")
    plugins("hooks", create=adjusting(hooks={kind: hook(kind) for kind in kinds}))
    container = pod.container()
    assert list(tmp_path.iterdir()) == []
    container.start()
    until(lambda: (tmp_path / "poststart").exists(), "it has been started")
    assert not (tmp_path / "poststop").exists()
    container.stop()
    container.remove()
    until(lambda: (tmp_path / "poststop").exists(), "it is gone")
    for kind in kinds:
        assert container.id in (tmp_path / kind).read_text()


@pytest.mark.skipif(DISK is None, reason="this machine has no disk")
def test_a_class_of_block_io_is_what_plugins_want(node: Node, pod: Pod, plugins: Plugins) -> None:
    assert DISK is not None
    meaning = f"Classes:\n  slow:\n    - {{Devices: [{DISK}], ThrottleReadBps: 1M}}\n"
    (node.directory / "blockio.yaml").write_text(meaning)
    plugins("classes", create=limits(blockio_class={"value": "slow"}))
    container = pod.container().start()
    said = control(container, "blkio", "blkio.throttle.read_bps_device", "io.max")
    disk = DISK.stat().st_rdev
    assert said.startswith(f"{os.major(disk)}:{os.minor(disk)} ")
    assert "1000000" in said
