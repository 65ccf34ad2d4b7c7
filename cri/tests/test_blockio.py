"""Classes of block I/O: what files mean, which are refused, and who is of which class."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.blockio import resolve
from cri.errors import InvalidRequest, WrongState
from cri.specgen.classes import BLOCKIO, asked
from runtime.spec import BlockIo, Throttle, WeightDevice

FIELD = "sandbox_config.annotations[x]"
PREFIX = "blockio.resources.beta.kubernetes.io"


@pytest.fixture
def disk() -> Iterator[tuple[str, int, int]]:
    """A disk of this machine, and its numbers."""
    for path in ("/dev/vda", "/dev/sda", "/dev/nvme0n1", "/dev/loop0"):
        if os.path.exists(path):
            number = os.stat(path).st_rdev
            yield path, os.major(number), os.minor(number)
            return
    pytest.skip("this machine has no disk")


def write(path: Path, classes: object) -> str:
    file = path / "blockio.json"
    file.write_text(json.dumps({"Classes": classes}))
    return str(file)


def test_a_class_is_rates_and_weights_of_disks(tmp_path: Path, disk: tuple[str, int, int]) -> None:
    path, major, minor = disk
    file = tmp_path / "blockio.yaml"
    file.write_text(
        f"""# as other runtimes read it
Classes:
  slow:
    - Weight: 50
    - Devices: [{path}]
      ThrottleReadBps: 20M
      throttlewritebps: 64Ki
      ThrottleReadIOPS: 500
      Weight: 20
    - Devices: ["{path[:-1]}[{path[-1]}]"]
      ThrottleReadBps: 1k
  nothing: []
"""
    )
    assert resolve("slow", FIELD, str(file)) == BlockIo(
        weight=50,
        weight_device=(WeightDevice(major, minor, 20),),
        throttle_read_bps_device=(Throttle(major, minor, 1000),),
        throttle_write_bps_device=(Throttle(major, minor, 65536),),
        throttle_read_iops_device=(Throttle(major, minor, 500),),
    )
    assert resolve("nothing", FIELD, str(file)) == BlockIo()
    with pytest.raises(InvalidRequest, match=r"has no blockio class 'x': there are nothing, slow"):
        resolve("x", FIELD, str(file))


def test_without_a_file_there_is_no_class() -> None:
    with pytest.raises(InvalidRequest, match=r"devices\.blockio_config_file names no file"):
        resolve("slow", FIELD, "")
    with pytest.raises(WrongState, match=r"x\]: blockio class .slow.: /none.yaml: No such file"):
        resolve("slow", FIELD, "/none.yaml")


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ({"Weight": 9}, r"Classes.c\[0\].Weight: 9 is not in 10..1000"),
        ({"Weight": "heavy"}, "'heavy' is no number"),
        ({"ThrottleReadBps": "5M"}, "takes Devices that it is for"),
        ({"Devices": ["/dev/null"], "ThrottleReadBps": "5M"}, "'/dev/null' matches no disk"),
        ({"Devices": ["/dev/none*"]}, "'/dev/none\\*' matches no disk"),
        ({"Devices": ["/etc/*"]}, "no path below /dev"),
        ({"Devices": ["/dev/../etc/passwd"]}, "no path below /dev"),
        ({"Devices": "/dev/sda"}, "must be a list of paths"),
        ({"Throttle": 1}, "'throttle' is none of"),
        ("x", "must be a mapping"),
    ],
)
def test_a_file_that_is_wrong_says_where(tmp_path: Path, item: object, says: str) -> None:
    with pytest.raises(WrongState, match=says):
        resolve("c", FIELD, write(tmp_path, {"c": [item]}))


def test_a_file_without_classes_is_wrong(tmp_path: Path) -> None:
    for text, says in (("[]", "the file: must be"), ("{}", "missing"), ("&a [*a]", "alias")):
        (tmp_path / "b.yaml").write_text(text)
        with pytest.raises(WrongState, match=says):
            resolve("c", FIELD, str(tmp_path / "b.yaml"))


def test_the_containers_own_word_counts_before_its_pods() -> None:
    config = api.ContainerConfig()
    config.metadata.name = "main"
    pod = api.PodSandboxConfig(annotations={f"{PREFIX}/pod": "pod"})
    assert asked(BLOCKIO, config, pod) == ("pod", f"sandbox_config.annotations[{PREFIX}/pod]")
    pod.annotations[f"{PREFIX}/container.main"] = "named"
    pod.annotations[f"{PREFIX}/container.other"] = "other"
    assert asked(BLOCKIO, config, pod) is not None
    assert asked(BLOCKIO, config, pod)[0] == "named"  # type: ignore[index]  # see above
    config.annotations["io.kubernetes.cri.blockio-class"] = "own"
    assert asked(BLOCKIO, config, pod)[0] == "own"  # type: ignore[index]
    assert asked(BLOCKIO, api.ContainerConfig(), api.PodSandboxConfig()) is None
