"""What the processes of a checkpoint may be: attacks, each a checkpoint that asks for more."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.checkpoint.confine import Bounds, Images, confine
from runtime.checkpoint.files import Refused
from runtime.checkpoint.wire import MalformedImage, Message, read, write
from runtime.init.values import Identity

CHOWN, SETUID, NET_RAW, SYS_ADMIN = 1 << 0, 1 << 7, 1 << 13, 1 << 21
DEFAULT = CHOWN | SETUID | NET_RAW
ROOT = Bounds(
    identity=Identity(),
    bounding=DEFAULT,
    permitted=DEFAULT,
    no_new_privileges=False,
    limits=tuple((number, 1000) for number in range(16)),
)
NOBODY = replace(
    ROOT, identity=Identity(1000, 1000, (1000, 7)), permitted=0, no_new_privileges=True
)
OUTSIDE = {5: 1, 6: 2, 7: 3, 8: 4, 9: 6, 10: 7, 11: 8, 12: 5}
INSIDE = {**OUTSIDE, 5: 9, 9: 10, 11: 11}


def ids(**namespaces: int) -> Message:
    changed = {int(name[1:]): value for name, value in namespaces.items()}
    fields = {**INSIDE, **changed}
    return Message.of((1, 2), (2, 2), (3, 2), (4, 2), *sorted(fields.items()))


def creds(
    uid: int = 0, *, effective: int = 0, bounding: int = 0, groups: tuple[int, ...] = ()
) -> Message:
    users: list[tuple[int, int]] = [(field, uid) for field in range(1, 9)]
    words = [(field, mask & 0xFFFFFFFF) for field, mask in ((10, effective), (11, effective))]
    more = [(field, mask >> 32) for field, mask in ((10, effective), (11, effective))]
    rest: list[tuple[int, int | bytes]] = [
        (12, bounding & 0xFFFFFFFF),
        (12, bounding >> 32),
        (13, 0),
        (15, b"unconfined"),
    ]
    return Message.of(*users, *words, *more, *rest, *((14, group) for group in groups))


Fields = dict[int, int]


def thread(made: Message | None = None, fields: Fields | None = None) -> Message:
    changed = (fields or {}).items()
    return Message.of((1, 0), (2, 0), *changed, (10, (made or creds()).encode()))


def core(one: Message | None = None, fields: Fields | None = None) -> Message:
    limits = Message.of(*((1, Message.of((1, 5000), (2, 2**64 - 1)).encode()) for _ in range(16)))
    tc = Message.of((1, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, "sh"), (8, limits.encode()))
    tc.add(13, 5)
    tc.add(14, 2**64 - 1000)
    return Message.of((1, 1), (3, tc.encode()), (5, (one or thread(None, fields)).encode()))


def pipe(number: int, identity: int, flags: int) -> Message:
    body = Message.of((1, identity), (2, number), (3, flags), (4, b""))
    return Message.of((1, 2), (2, identity), (18, body.encode()))


def regular(path: str, flags: int = 0) -> Message:
    return Message.of((1, 1), (2, 9), (3, Message.of((1, 9), (2, flags), (6, path)).encode()))


class Checkpoint:
    """The images of one process, as files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.images = Images(str(directory))
        root_ids = Message.of((1, 1), (2, 1), (3, 1), (4, 1), *sorted(OUTSIDE.items()))
        inventory = Message.of((1, 2), (3, root_ids.encode()), (6, 2), (12, b"\x62\x04cuda"))
        self.put("inventory", "inventory", inventory)
        self.put("pstree", "pstree", Message.of((1, 1), (2, 0), (3, 1), (4, 1), (5, 1)))
        self.put("ids-1", "ids", ids())
        self.put("core-1", "core", core())
        self.files(regular("/bin/sh"), pipe(50, 3, os.O_WRONLY), pipe(51, 4, os.O_WRONLY))
        self.put("seccomp", "seccomp", Message.of())
        descriptors = [(9, 1, 0), (3, 2, 1), (4, 2, 2)]
        entries = [Message.of((1, i), (2, 0), (3, k), (4, fd)) for i, k, fd in descriptors]
        self.put("fdinfo-2", "fdinfo", *entries)

    def put(self, name: str, kind: str, *messages: Message) -> None:
        (self.directory / f"{name}.img").write_bytes(write(kind, messages))

    def get(self, name: str, kind: str) -> Message:
        (message,) = read(kind, (self.directory / f"{name}.img").read_bytes())
        return message

    def files(self, *entries: Message) -> None:
        self.put("files", "files", *entries)

    def confine(self, bounds: Bounds = ROOT) -> dict[int, str]:
        outside = confine(
            self.images,
            bounds,
            lambda path, _flags: path != "/root/secret",
            lambda path: "/proc/" not in path,
        )
        return outside.pipes


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path)


def test_its_output_is_found_by_the_pipes_whose_readers_are_elsewhere(
    checkpoint: Checkpoint,
) -> None:
    assert checkpoint.confine() == {1: "pipe:[50]", 2: "pipe:[51]"}


def test_a_pipe_of_its_own_is_not_the_monitors(checkpoint: Checkpoint) -> None:
    both = (pipe(50, 3, os.O_WRONLY), pipe(50, 5, os.O_RDONLY), pipe(51, 4, os.O_WRONLY))
    checkpoint.files(*both)
    assert checkpoint.confine() == {2: "pipe:[51]"}


@pytest.mark.parametrize("which", ["effective", "bounding"])
def test_capabilities_beyond_the_containers_are_refused_by_name(
    checkpoint: Checkpoint, which: str
) -> None:
    held = DEFAULT | SYS_ADMIN
    made = creds(effective=held) if which == "effective" else creds(bounding=held)
    checkpoint.put("core-1", "core", core(thread(made)))
    with pytest.raises(Refused, match="CAP_SYS_ADMIN"):
        checkpoint.confine()


def test_a_thread_is_looked_at_as_its_process_is(checkpoint: Checkpoint) -> None:
    checkpoint.put(
        "core-7", "core", Message.of((1, 1), (5, thread(creds(effective=1 << 40)).encode()))
    )
    with pytest.raises(Refused, match="CAP_CHECKPOINT_RESTORE"):
        checkpoint.confine()


def test_capabilities_that_a_set_uid_program_may_give_are_allowed_unless_forbidden(
    checkpoint: Checkpoint,
) -> None:
    checkpoint.put("core-1", "core", core(thread(creds(1000, effective=CHOWN, bounding=DEFAULT))))
    checkpoint.confine(replace(NOBODY, no_new_privileges=False))
    with pytest.raises(Refused, match="CAP_CHOWN"):
        checkpoint.confine(NOBODY)


@pytest.mark.parametrize(
    "made", [creds(0), creds(1001), creds(1000, groups=(0,)), creds(1000, groups=(7, 42))]
)
def test_a_user_who_can_only_be_himself_is_nobody_else(
    checkpoint: Checkpoint, made: Message
) -> None:
    checkpoint.put("core-1", "core", core(thread(made)))
    with pytest.raises(Refused, match="user"):
        checkpoint.confine(NOBODY)


def test_a_user_with_his_own_groups_goes_on(checkpoint: Checkpoint) -> None:
    checkpoint.put("core-1", "core", core(thread(creds(1000, groups=(7, 1000)))))
    checkpoint.confine(NOBODY)


def test_what_the_container_promises_is_put_upon_its_processes(checkpoint: Checkpoint) -> None:
    checkpoint.put("core-1", "core", core(thread(creds(1000))))
    checkpoint.confine(replace(NOBODY, label="podwright-default"))
    made = checkpoint.get("core-1", "core").message(5)
    assert made.number(8) == 9
    who = made.message(10)
    assert (who.number(18), who.data(15)) == (1, b"podwright-default")
    assert checkpoint.get("inventory", "inventory").number(6) == 2


def test_limits_scores_labels_and_plugins_of_a_checkpoint_are_gone(checkpoint: Checkpoint) -> None:
    checkpoint.confine()
    made = checkpoint.get("core-1", "core")
    tc = made.message(3)
    assert not tc.has(13)
    assert not tc.has(14)
    limits = [(one.number(1), one.number(2)) for one in tc.message(8).messages(1)]
    assert limits == [(1000, 1000)] * 16
    assert not made.message(5).message(10).has(15)
    inventory = checkpoint.get("inventory", "inventory")
    assert (inventory.number(6), inventory.has(12)) == (0, False)


# --- seccomp ----------------------------------------------------------------------------------

OURS, THEIRS = b"ours----", b"theirs--"


def filters(*entries: tuple[bytes, int]) -> Message:
    made = []
    for code, below in entries:
        one = Message.of((1, code))
        if below >= 0:
            one.add(2, below)
        made.append((1, one.encode()))
    return Message.of(*made)


def chain(checkpoint: Checkpoint, name: str = "core-1") -> list[bytes]:
    """A thread's filters, the newest first."""
    thread_core = checkpoint.get(name, "core").message(5)
    assert thread_core.number(11) == 2
    kept = checkpoint.get("seccomp", "seccomp").messages(1)
    found, at = [], thread_core.number(12)
    while at >= 0:
        found.append(kept[at].data(1))
        at = kept[at].number(2) if kept[at].has(2) else -1
    return found


@pytest.mark.parametrize(
    ("entries", "which", "expected"),
    [
        ([], None, [OURS]),
        ([(THEIRS, -1)], None, [OURS]),
        ([(THEIRS, -1)], 0, [THEIRS, OURS]),
        ([(OURS, -1)], 0, [OURS]),
        ([(OURS, -1), (THEIRS, 0)], 1, [THEIRS, OURS]),
        ([(THEIRS, 1), (OURS, -1)], 0, [THEIRS, OURS]),
        ([(THEIRS, 1), (OURS, -1)], 1, [OURS]),
        ([(OURS, 1), (THEIRS, -1)], 0, [OURS, THEIRS, OURS]),
    ],
)
def test_the_containers_filter_is_beneath_all_others(
    checkpoint: Checkpoint,
    entries: list[tuple[bytes, int]],
    which: int | None,
    expected: list[bytes],
) -> None:
    checkpoint.put("seccomp", "seccomp", filters(*entries))
    fields = {} if which is None else {11: 2, 12: which}
    checkpoint.put("core-1", "core", core(None, fields))
    checkpoint.confine(replace(ROOT, seccomp=OURS))
    assert chain(checkpoint) == expected


def test_without_a_filter_of_the_container_theirs_stay(checkpoint: Checkpoint) -> None:
    checkpoint.put("seccomp", "seccomp", filters((THEIRS, -1)))
    checkpoint.put("core-1", "core", core(None, {11: 2, 12: 0}))
    checkpoint.confine()
    assert chain(checkpoint) == [THEIRS]


@pytest.mark.parametrize("entries", [[(THEIRS, 0)], [(THEIRS, 1), (OURS, 0)], [(THEIRS, 5)]])
def test_filters_without_an_end_are_malformed(
    checkpoint: Checkpoint, entries: list[tuple[bytes, int]]
) -> None:
    checkpoint.put("seccomp", "seccomp", filters(*entries))
    with pytest.raises(MalformedImage, match="filter"):
        checkpoint.confine(replace(ROOT, seccomp=OURS))


def test_a_filter_that_is_not_there_is_malformed(checkpoint: Checkpoint) -> None:
    checkpoint.put("core-1", "core", core(None, {11: 2, 12: 3}))
    with pytest.raises(MalformedImage, match="not there"):
        checkpoint.confine(replace(ROOT, seccomp=OURS))


# --- files, namespaces, the rest --------------------------------------------------------------


def opened(kind: int, field: int, *fields: tuple[int, int]) -> Message:
    return Message.of((1, kind), (2, 9), (field, Message.of(*fields).encode()))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        (opened(15, 12), "kind 15"),  # a tunnel device
        (opened(16, 15), "kind 16"),  # something that CRIU would have to be given
        (opened(14, 5), "kind 14"),  # a namespace
        (opened(12, 14), "kind 12"),  # fanotify
        (opened(19, 21), "kind 19"),  # a map of BPF
        (opened(10, 6), "packet socket"),
        (opened(4, 4, (4, 3)), "raw socket"),
    ],
)
def test_files_that_take_a_privilege_are_refused(
    checkpoint: Checkpoint, entry: Message, said: str
) -> None:
    checkpoint.files(entry)
    with pytest.raises(Refused, match=said):
        checkpoint.confine(replace(ROOT, bounding=CHOWN, permitted=CHOWN))


def test_raw_sockets_are_for_who_has_the_capability(checkpoint: Checkpoint) -> None:
    checkpoint.files(opened(4, 4, (4, 3)), pipe(50, 3, 1), pipe(51, 4, 1))
    checkpoint.confine()


def test_a_file_to_which_the_user_has_no_right_is_not_opened_for_him(
    checkpoint: Checkpoint,
) -> None:
    checkpoint.put("core-1", "core", core(thread(creds(1000))))
    checkpoint.files(regular("/root/secret", os.O_RDWR), pipe(50, 3, 1), pipe(51, 4, 1))
    with pytest.raises(Refused, match="/root/secret"):
        checkpoint.confine(NOBODY)


@pytest.mark.parametrize("kind", [stat.S_IFCHR, stat.S_IFBLK])
def test_no_device_is_made(checkpoint: Checkpoint, kind: int) -> None:
    ghost = Message.of((1, 0), (2, 0), (3, kind | 0o666), (6, os.makedev(8, 0)))
    checkpoint.put("ghost-file-1", "ghost-file", ghost)
    with pytest.raises(Refused, match="device"):
        checkpoint.confine()


def test_the_user_namespace_is_the_one_that_criu_is_in(checkpoint: Checkpoint) -> None:
    checkpoint.put("ids-1", "ids", ids(n10=99))
    checkpoint.confine()
    assert checkpoint.get("ids-1", "ids").number(10) == OUTSIDE[10]
    checkpoint.put("ids-2", "ids", ids(n10=98))
    with pytest.raises(Refused, match="two user namespaces"):
        checkpoint.confine()


@pytest.mark.parametrize(("field", "said"), [("n6", "network"), ("n7", "IPC"), ("n8", "UTS")])
def test_namespaces_that_are_the_pods_stay_the_pods(
    checkpoint: Checkpoint, field: str, said: str
) -> None:
    checkpoint.put("ids-1", "ids", ids(**{field: 99}))
    with pytest.raises(Refused, match=said):
        checkpoint.confine()


def test_no_process_has_a_mount_namespace_of_its_own(checkpoint: Checkpoint) -> None:
    checkpoint.put("ids-5", "ids", ids(n9=99))
    with pytest.raises(Refused, match="mount"):
        checkpoint.confine()


@pytest.mark.parametrize(("pids", "namespace"), [("pod", 9), ("node", 9), ("own", 1)])
def test_the_pid_namespace_is_of_the_kind_that_was_asked_for(
    checkpoint: Checkpoint, pids: str, namespace: int
) -> None:
    checkpoint.put("ids-1", "ids", ids(n5=namespace))
    with pytest.raises(Refused, match="pid namespace"):
        checkpoint.confine(replace(ROOT, pids=pids))


@pytest.mark.parametrize("fields", [{4: 1}, {4: 2}, {4: 6}, {3: 19}])
def test_a_priority_takes_its_capability(checkpoint: Checkpoint, fields: Fields) -> None:
    checkpoint.put("core-1", "core", core(None, fields))
    with pytest.raises(Refused, match="CAP_SYS_NICE"):
        checkpoint.confine()


def test_a_living_process_without_a_user_is_malformed(checkpoint: Checkpoint) -> None:
    """CRIU would look for it in another file, which nobody has looked at."""
    tc = Message.of((1, 1), (2, 0), (3, 0), (4, 0), (5, 0), (6, "sh"))
    checkpoint.put("core-1", "core", Message.of((1, 1), (3, tc.encode())))
    with pytest.raises(MalformedImage):
        checkpoint.confine()
    checkpoint.put("core-1", "core", core(Message.of((1, 0), (2, 0))))
    with pytest.raises(MalformedImage):
        checkpoint.confine()


@pytest.mark.parametrize("name", ["inventory", "pstree", "ids-1", "files", "fdinfo-2"])
def test_an_image_that_is_missing_is_named(checkpoint: Checkpoint, name: str) -> None:
    (checkpoint.directory / f"{name}.img").unlink()
    with pytest.raises(MalformedImage, match=f"{name}.img is missing"):
        checkpoint.confine()


def test_images_of_another_format_are_malformed(checkpoint: Checkpoint) -> None:
    checkpoint.put("inventory", "inventory", Message.of((1, 1)))
    with pytest.raises(MalformedImage, match="format 1"):
        checkpoint.confine()


def test_a_link_in_the_place_of_an_image_is_not_followed(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    core_file = tmp_path / "core-1.img"
    core_file.rename(tmp_path / "elsewhere")
    core_file.symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        checkpoint.confine()
