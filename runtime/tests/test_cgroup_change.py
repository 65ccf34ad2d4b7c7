"""All limits change or none: what was written before a refusal is put back."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import pytest

from runtime.cgroup.change import change, put_back
from runtime.cgroup.errors import CgroupRefused, MemoryInUse
from runtime.cgroup.limits import Limits, Setting, limits
from runtime.spec import Cpu, HugepageLimit, Memory, Resources

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.cgroup.tree import Cgroup

MIB = 1 << 20


@dataclass(slots=True)
class Kernel:
    """A cgroup's files in memory, each written as the kernel would; some values are refused."""

    files: dict[str, str]
    refuses: set[tuple[str, str]] = field(default_factory=set)
    held: int = 0
    written: list[str] = field(default_factory=list)

    def value(self, setting: Setting) -> str | None:
        return self.files.get(setting.file)

    def memory_held(self) -> int:
        return self.held

    def update(self, wanted: Limits) -> tuple[str, ...]:
        notes = []
        for one in wanted.settings:
            if (one.file, one.value) in self.refuses:
                raise CgroupRefused(one.file, one.value, errno.EINVAL, remedy="no")
            if one.file in self.files:
                self.files[one.file] = one.value.strip()
                self.written.append(one.file)
            else:
                notes.append(f"no {one.file}")
        return tuple(notes)

    def as_cgroup(self) -> Cgroup:
        return cast("Cgroup", self)


V2: Mapping[str, str] = {
    "cpu.max": "max 100000",
    "cpu.weight": "100",
    "cpuset.cpus": "",
    "memory.max": "max",
    "memory.swap.max": "max",
    "hugetlb.2MB.max": "0",
    "io.max": "8:16 rbps=1048576 wbps=max riops=max wiops=max",
}


def wanted(**resources: object) -> Limits:
    return limits(Resources(**resources), 2)  # type: ignore[arg-type]  # by name


ALL = wanted(
    memory=Memory(limit=64 * MIB, swap=64 * MIB),
    cpu=Cpu(quota=50_000, period=20_000, shares=512, cpus="0"),
    hugepage_limits=(HugepageLimit("2MB", 4 * MIB),),
    unified={"io.max": "8:0 rbps=1\n8:16 rbps=2"},
)


def test_every_limit_is_written_and_memory_is_the_last() -> None:
    kernel = Kernel(dict(V2))
    changed = change(kernel.as_cgroup(), ALL)
    assert kernel.files["cpu.max"] == "50000 20000"
    assert kernel.files["memory.max"] == str(64 * MIB)
    assert kernel.written[-2:] == ["memory.swap.max", "memory.max"]
    assert changed.notes == ("no hugetlb.2MB.rsvd.max",)


@pytest.mark.parametrize(
    "refused", [setting for setting in ALL.settings if "rsvd" not in setting.file]
)
def test_whatever_is_refused_everything_is_as_it_was(refused: Setting) -> None:
    kernel = Kernel(dict(V2), refuses={(refused.file, refused.value)})
    with pytest.raises(CgroupRefused) as raised:
        change(kernel.as_cgroup(), ALL)
    assert raised.value.file == refused.file
    assert not hasattr(raised.value, "__notes__")
    kernel.files["io.max"] = V2["io.max"]  # of several lines: see below
    assert kernel.files == V2


def test_of_a_file_with_a_line_a_device_only_that_line_is_put_back() -> None:
    kernel = Kernel(dict(V2))
    before = change(kernel.as_cgroup(), ALL).before
    lines = [setting.value for setting in before if setting.file == "io.max"]
    assert lines == [
        "8:0 rbps=max wbps=max riops=max wiops=max",
        "8:16 rbps=1048576 wbps=max riops=max wiops=max",
    ]


def test_an_empty_file_is_emptied_again_by_a_line() -> None:
    kernel = Kernel(dict(V2))
    before = change(kernel.as_cgroup(), wanted(cpu=Cpu(cpus="0"))).before
    assert [setting.value for setting in before] == ["\n"]


def test_what_can_not_be_put_back_is_said_and_the_rest_is_put_back() -> None:
    kernel = Kernel(dict(V2), refuses={("memory.max", str(64 * MIB)), ("cpu.max", "max 100000")})
    with pytest.raises(CgroupRefused) as raised:
        change(kernel.as_cgroup(), ALL)
    (note,) = raised.value.__notes__
    assert note.startswith("not put back: writing 'max 100000' to cpu.max")
    assert kernel.files["cpuset.cpus"] == ""


def test_a_limit_below_what_is_in_use_is_refused_before_anything_is_written() -> None:
    kernel = Kernel(dict(V2), held=65 * MIB)
    with pytest.raises(MemoryInUse, match=rf"memory.limit: {64 * MIB} bytes.* {65 * MIB} bytes"):
        change(kernel.as_cgroup(), ALL)
    assert kernel.written == []
    with pytest.raises(MemoryInUse, match=r"unified\.memory\.max"):
        change(kernel.as_cgroup(), wanted(unified={"memory.max": "4096"}))


def test_no_limit_at_all_is_never_below_use() -> None:
    kernel = Kernel(dict(V2), held=65 * MIB)
    change(kernel.as_cgroup(), wanted(memory=Memory(limit=-1)))
    assert kernel.files["memory.max"] == "max"


def test_putting_back_answers_what_was_refused() -> None:
    kernel = Kernel(dict(V2))
    before = change(kernel.as_cgroup(), ALL).before
    kernel.refuses.add(("cpu.weight", "100"))
    (failure,) = put_back(kernel.as_cgroup(), before)
    assert "cpu.weight" in failure
