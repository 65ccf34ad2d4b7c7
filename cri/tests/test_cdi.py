"""A CDI file becomes what a container gets; one that is wrong says where, and spoils no other."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest
import yaml

from cri.api import api_pb2 as api
from cri.cdi import registry
from cri.cdi.injection import Injection, Request, resolve
from cri.cdi.spec import parse
from cri.errors import CriFault, InvalidRequest, NotImplementedYet, WrongState
from cri.specgen import cdi, container
from cri.specgen.handler import Base, RuntimeHandler
from cri.specgen.subject import Facts
from cri.tests.subjects import image, secured, subject
from runtime.handlers.oci_cli import config
from runtime.spec import Device, DeviceRule, Hook, Mount

Edits = dict[str, object]


def write(path: Path, devices: dict[str, Edits], **fields: object) -> Path:
    """A file with these devices; .yaml or .json by its name."""
    path.parent.mkdir(exist_ok=True)
    made = {
        "cdiVersion": "0.7.0",
        "kind": "vendor.com/gpu",
        "devices": [
            {"name": name, "containerEdits": edits or {"env": ["A=1"]}}
            for name, edits in devices.items()
        ],
        **fields,
    }
    path.write_text(yaml.safe_dump(made) if path.suffix == ".yaml" else json.dumps(made))
    return path


def ask(directory: Path | list[Path], *names: str) -> Injection:
    directories = [directory] if isinstance(directory, Path) else directory
    wanted = [Request(name, f"devices[{index}]") for index, name in enumerate(names)]
    return resolve(wanted, [str(one) for one in directories])


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_device_brings_what_its_file_says(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "lib").touch()
    device: Edits = {
        "env": ["GPU=0", "MODE=fast"],
        "deviceNodes": [
            {"path": "/dev/gpu0", "hostPath": "/dev/full", "permissions": "rw", "fileMode": 0o640},
            {"path": "/dev/gpu-made", "type": "c", "major": 240, "minor": 3, "uid": 5, "gid": 6},
            {"path": "/dev/gpu-pipe", "type": "p"},
        ],
        "mounts": [
            {"hostPath": str(tmp_path / "lib"), "containerPath": "/lib/gpu", "options": ["ro"]},
            {"hostPath": "tmpfs", "containerPath": "/cache", "type": "tmpfs"},
        ],
        "additionalGids": [44, 0, 44],
    }
    write(tmp_path / "cdi" / f"gpu.{suffix}", {"0": device}, containerEdits={"env": ["ALL=yes"]})
    found = ask(tmp_path / "cdi", "vendor.com/gpu=0")
    assert found == Injection(
        env=("ALL=yes", "GPU=0", "MODE=fast"),
        devices=(
            Device("/dev/gpu0", "c", 1, 7, file_mode=0o640),
            Device("/dev/gpu-made", "c", 240, 3, uid=5, gid=6),
            Device("/dev/gpu-pipe", "p"),
        ),
        device_rules=(
            DeviceRule(allow=True, type="c", major=1, minor=7, access="rw"),
            DeviceRule(allow=True, type="c", major=240, minor=3, access="rwm"),
        ),
        mounts=(
            Mount("/lib/gpu", "bind", str(tmp_path / "lib"), ("rbind", "ro")),
            Mount("/cache", "tmpfs", "tmpfs"),
        ),
        additional_gids=(44,),
    )


def test_what_all_devices_of_a_file_bring_comes_once_and_so_does_a_device(tmp_path: Path) -> None:
    file = {"containerEdits": {"env": ["FILE=1"]}}
    write(tmp_path / "a.json", {"0": {"env": ["D=0"]}, "1": {"env": ["D=1"]}}, **file)
    found = ask(tmp_path, "vendor.com/gpu=1", "vendor.com/gpu=0", "vendor.com/gpu=1")
    assert found.env == ("FILE=1", "D=1", "D=0")


def test_the_later_directory_wins(tmp_path: Path) -> None:
    write(tmp_path / "etc" / "a.json", {"0": {"env": ["FROM=etc"]}})
    write(tmp_path / "run" / "z.json", {"0": {"env": ["FROM=run"]}})
    directories = [tmp_path / "etc", tmp_path / "run", tmp_path / "not-there"]
    assert ask(directories, "vendor.com/gpu=0").env == ("FROM=run",)
    assert ask(directories[::-1], "vendor.com/gpu=0").env == ("FROM=etc",)


def test_two_files_that_contradict_each_other_are_named_and_others_go_on(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"0": {}, "1": {}})
    write(tmp_path / "b.json", {"0": {}})
    with pytest.raises(InvalidRequest, match=r"devices\[0\]: CDI device .*a\.json and .*b\.json"):
        ask(tmp_path, "vendor.com/gpu=0")
    assert ask(tmp_path, "vendor.com/gpu=1").env == ("A=1",)


def test_a_contradiction_is_settled_by_a_later_directory(tmp_path: Path) -> None:
    for name in ("etc/a.json", "etc/b.json", "run/c.json"):
        write(tmp_path / name, {"0": {"env": [f"FROM={name}"]}})
    assert ask([tmp_path / "etc", tmp_path / "run"], "vendor.com/gpu=0").env == ("FROM=run/c.json",)


def test_a_device_that_no_file_has_is_named_with_what_was_read(tmp_path: Path) -> None:
    write(tmp_path / "good.json", {"0": {}, "1": {}})
    (tmp_path / "broken.yaml").write_text("cdiVersion: [")
    (tmp_path / "notes.txt").write_text("no CDI file")
    with pytest.raises(InvalidRequest) as caught:
        ask(tmp_path, "vendor.com/gpu=9")
    text = str(caught.value)
    assert text.startswith("devices[0]: no CDI device vendor.com/gpu=9: vendor.com/gpu has 0, 1;")
    assert f"read {tmp_path}/good.json;" in text
    assert f"{tmp_path}/broken.yaml can't be used: " in text
    assert text.endswith(f"looked in {tmp_path}")
    assert "notes.txt" not in text


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"0": {"env": ["A=1"]}})
    assert ask(tmp_path, "vendor.com/gpu=0").env == ("A=1",)
    fresh = write(tmp_path / "new.tmp", {"0": {"env": ["A=2"]}})  # of the same length
    fresh.rename(path)
    assert ask(tmp_path, "vendor.com/gpu=0").env == ("A=2",)
    path.unlink()
    with pytest.raises(InvalidRequest, match="there is no file to read"):
        ask(tmp_path, "vendor.com/gpu=0")


def test_a_file_that_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.json", {"0": {}}))
    [[first]] = registry.read([str(tmp_path)]).files
    [[second]] = registry.read([str(tmp_path)]).files
    assert first is second
    os.utime(path)
    [[third]] = registry.read([str(tmp_path)]).files
    assert third is not first


def test_what_is_no_file_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "huge.json").write_bytes(b" " * (registry.MAX_BYTES + 1))
    (tmp_path / "folder.json").mkdir()
    problems = [file.problem for file in registry.read([str(tmp_path)]).broken()]
    assert problems == ["Is a directory", "is larger than such a file may be, 4194304 bytes",
                        "is no regular file"]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"cdiVersion": "9.0.0"}, "cdiVersion: '9.0.0' is none that we know"),
        ({"cdiVersion": "0.4.0"}, "a device's name that begins with a digit came with 0.5.0"),
        ({"kind": "gpu"}, "'gpu' is no kind"),
        ({"kind": "vendor.com/a.b", "cdiVersion": "0.5.0"}, "a class with a dot came with 0.6.0"),
        ({"annotations": {"a": "b"}, "cdiVersion": "0.5.0"}, "annotations came with 0.6.0"),
        ({"devices": []}, "devices: there is none"),
        ({"devices": [{"name": "-"}]}, "'-' is no device's name"),
        ({"devices": [{"name": "a"}, {"name": "a"}]}, r"devices\[1\]\.name: 'a' occurs twice"),
        ({"device": []}, "device: no such field"),
    ],
)
def test_a_file_that_can_t_be_says_where(changed: dict[str, object], problem: str) -> None:
    data = {"cdiVersion": "0.7.0", "kind": "vendor.com/gpu", "devices": [{"name": "0"}], **changed}
    with pytest.raises(ValueError, match=problem):
        parse(json.dumps(data).encode(), yaml=False)


@pytest.mark.parametrize(
    ("edits", "problem"),
    [
        ({"deviceNode": []}, r"devices\[0\]\.containerEdits\.deviceNode: no such field"),
        ({"deviceNodes": [{"path": "/d", "mode": 1}]}, r"deviceNodes\[0\]\.mode: no such field"),
        ({"deviceNodes": [{"path": "dev"}]}, r"deviceNodes\[0\]\.path: 'dev' is not an absolute"),
        ({"deviceNodes": [{"path": "/d", "permissions": "rx"}]}, "'rx' is not made of r, w and m"),
        ({"deviceNodes": [{"path": "/d", "type": "z"}]}, "'z' is none of b, c, u, p"),
        ({"deviceNodes": [{"path": "/d", "major": -1}]}, "out of the kernel's range"),
        ({"deviceNodes": [{"path": "/d", "uid": 1 << 32}]}, r"uid: 4294967296 is not in"),
        ({"deviceNodes": [{"path": "/d", "fileMode": -1}]}, r"fileMode: -1 is not in"),
        ({"mounts": [{"hostPath": "/a"}]}, r"mounts\[0\]\.containerPath: missing"),
        ({"mounts": [{"hostPath": "a", "containerPath": "/b"}]}, "'a' is not an absolute path"),
        (
            {"mounts": [{"hostPath": "/a", "containerPath": "/b", "options": ["remount"]}]},
            r"mounts\[0\]\.options.*remount",
        ),
        ({"env": ["X"]}, r"env\[0\]: 'X' is not of the form"),
        ({"hooks": [{"hookName": "later", "path": "/x"}]}, "'later' is none of"),
        ({"hooks": [{"hookName": "poststop", "path": "x"}]}, r"hooks\[0\]\.path: 'x' is not an"),
        (
            {"hooks": [{"hookName": "poststop", "path": "/x", "timeout": 0}]},
            r"hooks\[0\]\.timeout: 0 is not above 0",
        ),
        (
            {"hooks": [{"hookName": "poststop", "path": "/x", "env": ["A"]}]},
            r"hooks\[0\]\.env\[0\]: 'A' can't be given",
        ),
        ({"additionalGids": [-1]}, r"additionalGids\[0\]: -1 is not in"),
        ({"env": "A=1"}, "expected array"),
    ],
)
def test_edits_that_can_t_be_say_where(edits: Edits, problem: str) -> None:
    device = {"name": "0", "containerEdits": edits}
    data = {"cdiVersion": "0.7.0", "kind": "vendor.com/gpu", "devices": [device]}
    with pytest.raises(ValueError, match=problem):
        parse(json.dumps(data).encode(), yaml=False)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"{", b"[" * 100_000, b"- " * 1_000_000, b"\xff\xfe\x00", b'{"kind": "\\ud800"}'],
)
def test_no_text_at_all_does_more_than_be_refused(text: bytes) -> None:
    for as_yaml in (False, True):
        with pytest.raises(ValueError, match=r".+"):
            parse(text, yaml=as_yaml)


def test_a_file_can_not_stand_for_more_than_it_holds() -> None:
    bomb = b"devices: [&a {name: x}, *a]\n"
    with pytest.raises(ValueError, match="has aliases"):
        parse(bomb, yaml=True)


@pytest.mark.parametrize(
    ("edits", "kind", "problem"),
    [
        ({"deviceNodes": [{"path": "/dev/nope"}]}, WrongState, "'/dev/nope': No such file"),
        ({"deviceNodes": [{"path": "/d", "hostPath": "/etc"}]}, WrongState, "'/etc' is no device"),
        (
            {"deviceNodes": [{"path": "/dev/null", "type": "b"}]},
            WrongState,
            "of type 'c', not 'b'",
        ),
        (
            {"mounts": [{"hostPath": "/no/such", "containerPath": "/b"}]},
            WrongState,
            "it mounts, '/no/such': No such file",
        ),
        ({"intelRdt": {"closID": "gold"}}, NotImplementedYet, "it asks for intelRdt"),
    ],
)
def test_what_the_node_can_t_give_names_the_device_and_its_file(
    tmp_path: Path, edits: Edits, kind: type[CriFault], problem: str
) -> None:
    path = write(tmp_path / "a.json", {"0": edits})
    with pytest.raises(kind, match=problem) as caught:
        ask(tmp_path, "vendor.com/gpu=0")
    assert str(caught.value).startswith(f"CDI device vendor.com/gpu=0 ({path}): ")


def test_devices_are_asked_for_by_field_and_by_annotation() -> None:
    config = api.ContainerConfig(
        CDI_devices=[api.CDIDevice(name="vendor.com/gpu=0")],
        annotations={"cdi.k8s.io/b": "x.y/z=2", "cdi.k8s.io/a": "x.y/z=0, x.y/z=1", "other": "x"},
    )
    assert [request.name for request in cdi.requested(config)] == [
        "vendor.com/gpu=0", "x.y/z=0", "x.y/z=1", "x.y/z=2"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "gpu", "vendor.com/gpu", "vendor.com/gpu=", "a b/c=d", "=x"])
def test_what_is_no_name_of_a_device_is_refused_with_its_field(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"config\.CDI_devices\[0\]\.name: "):
        cdi.requested(api.ContainerConfig(CDI_devices=[api.CDIDevice(name=name)]))
    with pytest.raises(InvalidRequest, match=r"config\.annotations\[cdi\.k8s\.io/x\]: "):
        cdi.requested(api.ContainerConfig(annotations={"cdi.k8s.io/x": name}))


GIVEN = Injection(
    env=("BOTH=device",),
    devices=(Device("/dev/gpu", "c", 240, 0),),
    device_rules=(DeviceRule(allow=True, type="c", major=240, minor=0),),
    mounts=(Mount("/data/", "bind", "/device", ("rbind",)), Mount("/data/in", "bind", "/in")),
    additional_gids=(44, 7),
)


def test_what_a_device_brings_goes_before_the_request() -> None:
    config = secured(supplemental_groups=[7])
    config.envs.add(key="BOTH", value=b"request")
    config.mounts.add(container_path="/data", host_path="/request")
    config.mounts.add(container_path="/data/in/deep", host_path="/deep")
    spec = container.spec(subject(config, facts=Facts(injection=GIVEN), of_image=image(cmd=["x"])))
    assert spec.process.env[-1] == "BOTH=device"
    assert spec.process.user_lookup is not None
    assert spec.process.user_lookup.supplemental == (7, 44)
    assert spec.linux.devices == GIVEN.devices
    assert spec.linux.resources.devices[-1] == GIVEN.device_rules[0]
    sources = [mount.source for mount in spec.mounts if mount.destination.startswith("/data")]
    assert sources == ["/device", "/in", "/deep"]  # parents first


def test_hooks_of_devices_come_after_those_of_the_handler(tmp_path: Path) -> None:
    hook = {"hookName": "createContainer", "path": "/usr/bin/links", "args": ["links", "-v"]}
    write(tmp_path / "a.json", {"0": {"hooks": [hook]}})
    first = {"createContainer": (Hook("/first"),), "poststop": (Hook("/last"),)}
    asking = dataclasses.replace(
        subject(secured(), facts=Facts(injection=ask(tmp_path, "vendor.com/gpu=0"))),
        handler=RuntimeHandler("x", base=Base(hooks=first)),
    )
    spec = container.spec(asking)
    links = Hook("/usr/bin/links", ("links", "-v"))
    assert spec.hooks == {
        "createContainer": (Hook("/first"), links),
        "poststop": (Hook("/last"),),
    }
    written = {"path": "/usr/bin/links", "args": ["links", "-v"]}
    assert config(spec, Path("/place"))["hooks"] == {
        "createContainer": [{"path": "/first"}, written],
        "poststop": [{"path": "/last"}],
    }
