"""Classes of block I/O: what a node's file says that each may have of which disk.

    Classes:
      slow:
        - Weight: 50                       # of those that want the same disk; 10 to 1000
        - Devices: [/dev/vda, "/dev/sd*"]
          ThrottleReadBps: 20M             # k, M, G, T by 1000; Ki, Mi, Gi, Ti by 1024
          ThrottleWriteIOPS: 500

The file is that of other Kubernetes runtimes (containerd's and CRI-O's `blockio_config_file`), YAML
or JSON. It is read when a container asks for a class; nobody else pays for it.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from cri.cdi.document import loaded
from cri.errors import InvalidRequest, WrongState
from runtime.spec import BlockIo, Throttle, WeightDevice

MOST_BYTES = 1 << 20
_NUMBER = re.compile(r"([0-9]{1,15})(k|K|M|G|T|Ki|Mi|Gi|Ti)?")
_UNITS = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
          "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}  # fmt: skip
_RATES = {
    "throttlereadbps": "throttle_read_bps_device",
    "throttlewritebps": "throttle_write_bps_device",
    "throttlereadiops": "throttle_read_iops_device",
    "throttlewriteiops": "throttle_write_iops_device",
}
_KEYS = {"devices", "weight", *_RATES}
Item = Mapping[str, object]


def resolve(name: str, field: str, path: str) -> BlockIo:
    """What a class means on this node, now. field: where its name stands in the request.

    Blocks. Raises InvalidRequest for a class that the file has not, WrongState for a file that
    can't be used.
    """
    if not path:
        raise InvalidRequest(
            field,
            f"there is no blockio class {name!r}: devices.blockio_config_file names no file "
            "that describes any",
        )
    try:
        known_classes = classes(Path(path))
        if name not in known_classes:
            known = ", ".join(sorted(known_classes)) or "none"
            raise InvalidRequest(field, f"{path} has no blockio class {name!r}: there are {known}")
        return _block_io(known_classes[name], f"Classes.{name}")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise WrongState(f"{field}: blockio class {name!r}: {path}: {why}") from error


def classes(path: Path) -> dict[str, list[Item]]:
    """What the file says of each class, by name. Blocks. Raises OSError, ValueError."""
    with path.open("rb") as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")
    document = loaded(text, yaml=path.suffix != ".json")
    found = _lowered(document, "").get("classes")
    if not isinstance(found, dict):
        raise ValueError("Classes: missing, or no mapping")
    made: dict[str, list[Item]] = {}
    for name, items in found.items():
        place = f"Classes.{name}"
        if not isinstance(items, list):
            raise ValueError(f"{place}: must be a list")
        made[str(name)] = [_lowered(item, f"{place}[{index}]") for index, item in enumerate(items)]
    return made


def _lowered(value: object, place: str) -> dict[str, object]:
    """A mapping whose keys are written in any case, as other runtimes take them."""
    if not isinstance(value, dict):
        raise ValueError(f"{place or 'the file'}: must be a mapping")
    return {str(key).lower(): item for key, item in value.items()}


def _block_io(items: list[Item], place: str) -> BlockIo:
    """Of several settings for one disk the last counts."""
    weight: int | None = None
    weights: dict[tuple[int, int], WeightDevice] = {}
    rates: dict[str, dict[tuple[int, int], Throttle]] = {field: {} for field in _RATES.values()}
    for index, item in enumerate(items):
        here = f"{place}[{index}]"
        asked = _weight(item, here)
        if "devices" not in item:
            weight = asked if asked is not None else weight
            continue
        for number in _disks(item["devices"], f"{here}.Devices"):
            if asked is not None:
                weights[number] = WeightDevice(*number, asked)
            for key, field in _RATES.items():
                if item.get(key):
                    rates[field][number] = Throttle(*number, _number(item[key], f"{here}.{key}"))
    throttles = {field: tuple(found.values()) for field, found in rates.items()}
    return BlockIo(weight=weight, weight_device=tuple(weights.values()), **throttles)


def _weight(item: Item, place: str) -> int | None:
    """Of an item whose keys belong together."""
    for key in item:
        if key not in _KEYS:
            raise ValueError(f"{place}: {key!r} is none of {', '.join(sorted(_KEYS))}")
    if "devices" not in item and item.keys() - {"weight"}:
        raise ValueError(f"{place}: a rate takes Devices that it is for")
    if not item.get("weight"):
        return None
    weight = _number(item["weight"], f"{place}.Weight")
    if not 10 <= weight <= 1000:
        raise ValueError(f"{place}.Weight: {weight} is not in 10..1000")
    return weight


def _number(value: object, place: str) -> int:
    match = _NUMBER.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise ValueError(f"{place}: {value!r} is no number such as 100, 20M or 64Ki")
    return int(match[1]) * _UNITS[match[2] or ""]


def _disks(patterns: object, place: str) -> Iterator[tuple[int, int]]:
    """Major and minor numbers of the block devices that the patterns match."""
    if not isinstance(patterns, list) or not all(isinstance(item, str) for item in patterns):
        raise ValueError(f"{place}: must be a list of paths")
    for pattern in patterns:
        if not pattern.startswith("/dev/") or ".." in pattern.split("/"):
            raise ValueError(f"{place}: {pattern!r} is no path below /dev")
        found = False
        for path in sorted(glob.iglob(pattern)):
            status = os.stat(path)
            if stat.S_ISBLK(status.st_mode):
                found = True
                yield os.major(status.st_rdev), os.minor(status.st_rdev)
        if not found:
            raise ValueError(f"{place}: {pattern!r} matches no disk of this node")
