"""What a runtime handler adds to a container's spec, and what it can't."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from cri import node_handlers
from cri.api import api_pb2 as api
from cri.config import Config, ConfigError, load, parse
from cri.errors import InvalidRequest
from cri.handlers import HandlerConfig
from cri.specgen import container as specgen
from cri.specgen.handler import Base, BaseRefused, RuntimeHandler, load_base
from cri.tests.subjects import secured, subject
from runtime.handlers.oci_cli import OciCli
from runtime.handlers.shim_v2 import ShimV2
from runtime.spec import Hook, Spec

OCI = HandlerConfig(type="oci", path="/usr/sbin/runc")
SHIM = HandlerConfig(type="shim", path="/opt/kata/bin/containerd-shim-kata-v2")


def spec_with(
    handler: RuntimeHandler,
    config: api.ContainerConfig | None = None,
    sandbox: api.PodSandboxConfig | None = None,
) -> Spec:
    asked = subject(config or api.ContainerConfig(), sandbox)
    return specgen.spec(dataclasses.replace(asked, handler=handler))


def base(tmp_path: Path, **parts: object) -> Base:
    file = tmp_path / "base.json"
    file.write_text(json.dumps(parts))
    return load_base(file)


def test_only_annotations_that_a_pattern_allows_reach_the_spec_and_the_containers_win() -> None:
    config = HandlerConfig(
        default_annotations={"run.oci.a": "default", "fixed": "yes"},
        pod_annotations=("run.oci.*",),
        container_annotations=("run.oci.b",),
    )
    pod = api.PodSandboxConfig(annotations={"run.oci.a": "pod", "run.oci.b": "pod", "secret": "no"})
    made = spec_with(
        RuntimeHandler("x", config),
        api.ContainerConfig(annotations={"run.oci.b": "container", "run.oci.c": "no"}),
        pod,
    )
    assert made.annotations == {"fixed": "yes", "run.oci.a": "pod", "run.oci.b": "container"}
    assert spec_with(RuntimeHandler(), sandbox=pod).annotations == {}


def test_a_shim_is_told_whose_container_it_makes_and_no_pod_can_say_otherwise() -> None:
    config = dataclasses.replace(SHIM, pod_annotations=("io.*",), container_annotations=("io.*",))
    resources = api.LinuxContainerResources(cpu_period=100000, cpu_quota=50000)
    pod = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name="web", namespace="shop", uid="u1"),
        annotations={"io.kubernetes.cri.sandbox-name": "lie", "io.katacontainers.x": "y"},
        linux=api.LinuxPodSandboxConfig(resources=resources),
    )
    asked = api.ContainerConfig(
        metadata=api.ContainerMetadata(name="c"),
        annotations={"io.kubernetes.cri.sandbox-uid": "lie"},
    )
    made = spec_with(RuntimeHandler("kata", config), asked, pod)
    assert made.annotations == {
        "io.katacontainers.x": "y",
        "io.kubernetes.cri.sandbox-name": "web",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": "u1",
        "io.kubernetes.cri.container-name": "c",
        "io.kubernetes.cri.sandbox-cpu-period": "100000",
        "io.kubernetes.cri.sandbox-cpu-quota": "50000",
        "io.kubernetes.cri.sandbox-cpu-shares": "0",
        "io.kubernetes.cri.sandbox-memory": "0",
    }


def test_a_base_fills_what_the_pod_leaves_open_and_nothing_else(tmp_path: Path) -> None:
    parts = base(
        tmp_path,
        ociVersion="1.0.2",
        process={
            "args": ["ignored"],
            "env": ["PATH=/theirs", "PROXY=http://p"],
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 20}],
        },
        mounts=[
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm"},
            {"destination": "/run", "type": "tmpfs", "source": "tmpfs"},
        ],
        linux={
            "resources": {"pids": {"limit": 50}, "devices": [{"allow": False}]},
            "maskedPaths": ["/proc/scsi", "/proc/more"],
        },
    )
    made = spec_with(RuntimeHandler("x", base=parts))
    assert made.process.args == ("sh",)
    assert "PROXY=http://p" in made.process.env
    assert "PATH=/theirs" not in made.process.env
    assert made.process.rlimits[0].hard == 20
    assert [m.source for m in made.mounts if m.destination == "/dev/shm"] == ["pod-shm"]
    assert [m.type for m in made.mounts if m.destination == "/run"] == ["tmpfs"]
    assert made.linux.resources.pids is not None
    assert made.linux.resources.devices == spec_with(RuntimeHandler()).linux.resources.devices
    assert made.linux.masked_paths.count("/proc/scsi") == 1
    assert "/proc/more" in made.linux.masked_paths


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"linux": {"intelRdt": {}}}, "linux.intelRdt: nobody would honour it"),
        ({"vm": {}}, "vm: nobody would honour it"),
        ({"hooks": {"poststopp": [{"path": "/x"}]}}, "hooks.poststopp: no such hook: there are"),
        ({"hooks": {"poststop": [{"path": "x"}]}}, 'hooks.poststop[0].path: "x" is not absolute'),
        ({"process": {"env": [1]}}, "process.env[0]: expected str"),
    ],
)
def test_a_base_that_would_be_lost_silently_is_refused(
    tmp_path: Path, parts: dict[str, object], says: str
) -> None:
    with pytest.raises(BaseRefused) as raised:
        base(tmp_path, **parts)
    assert says in str(raised.value)
    assert str(tmp_path / "base.json") in str(raised.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [("[" * 100_000, "nested too deeply"), ('{"mounts": [], "a": "\\ud800"}', "surrogates"),
     (None, "No such file")],
)  # fmt: skip
def test_a_base_that_is_no_document_is_refused_by_its_name(
    tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "base.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BaseRefused, match=f"base_runtime_spec {path}: .*{says}"):
        load_base(path)


def test_a_base_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(BaseRefused, match=f"base_runtime_spec {path}: not a file"):
            load_base(path)


def test_variants_hold_back_sysfs_and_devices_from_privileged_containers() -> None:
    asked = secured(privileged=True)
    pod = api.PodSandboxConfig()
    pod.linux.security_context.privileged = True
    config = HandlerConfig(readonly_sysfs=True, privileged_without_host_devices=True)
    plain, held = (
        spec_with(RuntimeHandler("x", one), asked, pod) for one in (HandlerConfig(), config)
    )
    for spec, mode in ((plain, "rw"), (held, "ro")):
        assert all(m.options[-1] == mode for m in spec.mounts if m.destination.startswith("/sys"))
    assert [rule.allow for rule in plain.linux.resources.devices] == [True]
    assert [rule.allow for rule in held.linux.resources.devices] == [False]


def test_a_recursive_read_only_mount_is_refused_where_nobody_knows_it() -> None:
    mount = api.Mount(
        container_path="/m", host_path="/tmp", readonly=True, recursive_read_only=True
    )
    asked = api.ContainerConfig(mounts=[mount])
    (made,) = (m for m in spec_with(RuntimeHandler(), asked).mounts if m.destination == "/m")
    assert made.options[-1] == "rro"
    with pytest.raises(InvalidRequest, match="does not list rro in its features"):
        spec_with(RuntimeHandler("old", recursive_read_only=False), asked)


def test_handlers_of_the_configuration_are_runtimes_of_the_node(tmp_path: Path) -> None:
    hooks = {"createRuntime": [{"path": "/hook"}], "poststop": []}
    (tmp_path / "base.json").write_text(json.dumps({"hooks": hooks}))
    config = parse(
        "[runtime.handlers.other]\ntype = 'oci'\npath = '/no/such'\narguments = ['-x']\n"
        f"[runtime.handlers.strict]\nbase_runtime_spec = '{tmp_path}/base.json'\n"
        "[runtime.handlers.kata]\ntype = 'shim'\npath = '/no/such/containerd-shim-kata-v2'\n"
        "options = {ConfigPath = '/k.toml'}\nsandbox = 'task'\n"
    )
    found = node_handlers.find(config)
    assert list(found) == ["", "podwright", "other", "strict", "kata"]
    recursive = [one.recursive_read_only for one in found.values()]
    assert recursive == [True, True, False, True, False]
    assert node_handlers.runtimes(found) == {
        "other": OciCli("other", "/no/such", ("-x",)),
        "kata": ShimV2(
            "kata", "/no/such/containerd-shim-kata-v2", {"ConfigPath": "/k.toml"}, sandbox="task"
        ),
    }
    assert spec_with(found["strict"]).hooks == {"createRuntime": (Hook("/hook"),)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[runtime.handlers.x]\ntype = 'oci'", ":1: runtime.handlers.x.path is missing"),
        (
            "[runtime.handlers.x]\n\nroot = '/r'",
            ':3: runtime.handlers.x.root is only for type = "oci"',
        ),
        ("[runtime.handlers.x]\ntype = 'shim'", ":1: runtime.handlers.x.path is missing"),
        (
            "[runtime.handlers.x]\ntype = 'shim'\npath = '/x'\nown_cgroup = false",
            ':4: runtime.handlers.x.own_cgroup is only for type = "oci"',
        ),
        (
            "[runtime.handlers.x]\nsandbox = 'api'",
            ':2: runtime.handlers.x.sandbox is only for type = "shim"',
        ),
        (
            "[runtime.handlers.x]\npath = '/x'",
            ':2: runtime.handlers.x.path is only for type = "oci" or "shim"',
        ),
        (
            "[runtime.handlers.x]\ntype = 'shim'\npath = '/x'\noptions = {BinaryName = 'x'}",
            ":4: runtime.handlers.x.options can't be given to it: BinaryName: this shim's options",
        ),
        (
            "[runtime.handlers.podwright]\ntype = 'oci'\npath = '/bin/x'",
            ":2: runtime.handlers.podwright.type must be podwright",
        ),
    ],
)
def test_keys_of_a_handler_that_do_not_go_together_are_told_with_their_line(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "p.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(file)
    assert f"{file}{says}" in str(raised.value)


def test_a_drop_in_changes_single_keys_of_a_handler(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "p.toml").write_text(
        "[runtime.handlers.runc]\ntype = 'oci'\npath = '/usr/sbin/runc'\n"
        "default_annotations = {a = '1'}"
    )
    (tmp_path / "conf.d/x.toml").write_text(
        "[runtime.handlers.runc]\nown_cgroup = false\ndefault_annotations = {b = '2'}"
    )
    changed = load(tmp_path / "p.toml").handlers["runc"]
    assert changed == dataclasses.replace(
        OCI, own_cgroup=False, default_annotations={"a": "1", "b": "2"}
    )
    assert Config().handlers[""] == HandlerConfig()
