"""The mounts of a restored container: made of what is there, whatever the checkpoint says."""

from __future__ import annotations

from runtime.checkpoint import criu, mounts
from runtime.checkpoint.wire import Message, read, write

LINES = b"""\
74 70 0:42 / /place rw,relatime - overlay overlay rw
75 74 254:0 /a\\040file /place/etc/hosts ro,nosuid,relatime - ext4 /dev/vda rw
81 74 0:44 / /place/proc rw,nosuid,nodev,noexec,relatime - proc none rw
82 81 0:44 /sys /place/proc/sys ro,nosuid,nodev,noexec,relatime - proc none rw
83 81 0:45 /null /place/proc/kcore ro - devtmpfs none rw
"""


def lines() -> list[criu.MountLine]:
    found = criu.parse_mounts(LINES.splitlines())
    return [
        criu.MountLine(
            one.id, one.parent, one.device, one.root, one.place[6:] or "/", one.options, one.kind
        )
        for one in found
    ]


def made(old: dict[str, int]) -> tuple[dict[str, Message], tuple[str, ...]]:
    image = mounts.image(lines(), "/place", old)
    return {one.data(7).decode(): one for one in read("mountpoints", image.data)}, image.external


def test_a_line_of_mountinfo_is_what_the_kernel_says() -> None:
    one = lines()[1]
    assert (one.id, one.parent, one.root, one.place) == (75, 74, "/a file", "/etc/hosts")
    assert one.options == ("ro", "nosuid", "relatime")


def test_every_mount_but_proc_comes_from_where_it_was_prepared() -> None:
    entries, external = made({})
    assert entries.keys() == {"/", "/etc/hosts", "/proc", "/proc/sys", "/proc/kcore"}
    keys = {one.data(18).decode() for one in entries.values()} - {""}
    assert {f"mnt[{key}]" for key in keys} == {item.split(":")[0] for item in external}
    assert {item.split(":")[1] for item in external} == {"/place/etc/hosts", "/place/proc/kcore"}
    assert entries["/etc/hosts"].number(5) == 1 | 2 | 1 << 21


def test_proc_is_made_anew_and_its_parts_are_of_that() -> None:
    entries, _ = made({})
    proc, part = entries["/proc"], entries["/proc/sys"]
    assert (proc.number(1), part.number(1)) == (1, 1)
    assert proc.number(3) == part.number(3)
    assert (proc.data(6), part.data(6)) == (b"/", b"/sys")
    assert part.number(4) == proc.number(2)


def test_open_files_know_their_mount_by_its_old_number() -> None:
    entries, _ = made({"/": 500, "/proc": 501, "/gone": 502})
    assert entries["/"].number(2) == 500
    assert entries["/etc/hosts"].number(4) == 500
    numbers = [one.number(2) for one in entries.values()]
    assert len(set(numbers)) == len(numbers)
    assert 502 not in numbers


def test_old_numbers_that_clash_or_can_not_be_are_not_used() -> None:
    entries, _ = made({"/": 500, "/proc": 500, "/etc/hosts": 0, "/proc/sys": 1 << 31})
    numbers = [one.number(2) for one in entries.values()]
    assert len(set(numbers)) == len(numbers)
    assert min(numbers) == 500


def test_of_a_checkpoints_mounts_only_the_numbers_are_read() -> None:
    """An entry that would mount the node's disk."""
    evil = Message.of((1, 16), (2, 7), (3, 2048), (4, 1), (5, 0), (6, "/"), (7, "/host"))
    evil.add(8, b"/dev/sda1")
    old = mounts.old_numbers(write("mountpoints", [evil, Message.of((2, 5), (7, "./"))]))
    assert old == {"/host": 7, "/": 5}
    entries, external = made(old)
    assert "/host" not in entries
    assert all("sda" not in item for item in external)
