"""Labels as text, what a node's policy says, and which files a relabelling changes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from runtime.init import plan
from runtime.selinux import label, node, relabel
from runtime.selinux.label import Label, categories, is_level
from runtime.spec import Linux, Process, Rootfs, Spec
from runtime.tests.init_support import Image

PROCESS, FILE = "system_u:system_r:container_t:s0", "system_u:object_r:container_file_t:s0"
IMAGE = "system_u:object_r:container_ro_file_t:s0"
CONTEXTS = f'# of containers\nprocess = "{PROCESS}"\nfile="{FILE}"\n; no_process = "x"\n'
LABEL = f"{FILE}:c1,c2"


def test_a_label_has_three_parts_or_four_and_its_text_again() -> None:
    assert Label.parse(LABEL) == Label("system_u", "object_r", "container_file_t", "s0:c1,c2")
    for text in (LABEL, "u:r:t", "u:r:t:s0-s15:c0.c1023"):
        assert str(Label.parse(text)) == text


@pytest.mark.parametrize("text", ["", "u:r", "u:r:", "u:r:t:", "u:r:t:s0,c1", 'u:r:t"', "u:r:t t"])
def test_what_is_no_label_is_said(text: str) -> None:
    with pytest.raises(ValueError, match=r"no SELinux label|no level"):
        Label.parse(text)


@pytest.mark.parametrize(
    ("level", "good"),
    [
        *((text, True) for text in ("s0", "s0:c1", "s0:c1,c2", "s0-s0:c0.c1023", "s0:c1.c5,c9")),
        *((text, False) for text in ("", "s", "c1", "s0:", "s0,c4,c5", "s0:c1,", "s0:c1 ", "s0:x")),
    ],
)
def test_levels_are_told_from_what_only_looks_so(level: str, good: bool) -> None:
    assert is_level(level) is good


def test_categories_are_counted_however_they_are_written() -> None:
    assert categories("s0") == frozenset()
    assert categories("s0:c5,c4") == categories("s0:c4.c5") == {4, 5}
    assert categories("s0-s1:c1.c3,c7") == {1, 2, 3, 7}


def test_a_level_is_one_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label, "CATEGORIES", 8)
    taken = [f"s0:c{high},c{low}" for high in range(7) for low in range(high)]
    made = [label.unused_level("s0-s15:c0.c1023", taken) for _ in range(100)]
    assert set(made) <= {f"s0:c{low},c7" for low in range(7)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A node whose policy is a file; its kernel (in sys) knows every label."""
    contexts = tmp_path / "etc/selinux/mcs/contexts/lxc_contexts"
    contexts.parent.mkdir(parents=True)
    contexts.write_text(CONTEXTS)
    (tmp_path / node.CONFIG).write_text(
        "# SELINUXTYPE=targeted\nSELINUX=enforcing\nSELINUXTYPE=mcs"
    )
    selinuxfs = tmp_path / "sys/fs/selinux"
    selinuxfs.mkdir(parents=True)
    (selinuxfs / "enforce").write_text("1")
    (selinuxfs / "context").touch()
    return tmp_path


def test_the_policy_says_what_containers_are(root: Path) -> None:
    found = node.policy(root, root / "sys")
    assert (str(found.process), str(found.file)) == (PROCESS, FILE)
    assert found.image == found.file
    assert str(found.privileged) == "system_u:system_r:spc_t:s0"
    assert node.enabled(root / "sys")
    assert node.enforcing(root / "sys")


def test_the_file_of_the_containers_own_package_comes_first(root: Path) -> None:
    path = root / node.CONTAINERS
    path.parent.mkdir(parents=True)
    path.write_text(CONTEXTS.replace("container_t", "other_t") + f'ro_file = "{IMAGE}"\n')
    found = node.policy(root, root / "sys")
    assert (found.process.type, str(found.image)) == ("other_t", IMAGE)


def refusing(root: Path) -> None:
    """From now on the kernel answers EINVAL: a file of its own that does so to any label."""
    (root / "sys/fs/selinux/context").unlink()
    (root / "sys/fs/selinux/context").symlink_to("/proc/self/oom_score_adj")


def test_a_label_that_the_kernel_does_not_know_is_no_error(root: Path) -> None:
    assert node.knows(Label.parse(LABEL), root / "sys")
    refusing(root)
    assert not node.knows(Label.parse(LABEL), root / "sys")


def test_a_policy_without_containers_is_said_with_what_to_do(root: Path) -> None:
    refusing(root)
    with pytest.raises(node.PolicyUnusable, match=r"no label.*container_t.*container-selinux"):
        node.policy(root, root / "sys")
    contexts = node.contexts_file(root)
    contexts.write_text(f'process = "{PROCESS}"\n')
    (root / "sys/fs/selinux/context").unlink()
    (root / "sys/fs/selinux/context").touch()
    with pytest.raises(node.PolicyUnusable, match="lxc_contexts: file: '' is no SELinux label"):
        node.policy(root, root / "sys")
    contexts.unlink()
    with pytest.raises(node.PolicyUnusable, match=r"lxc_contexts: No such file.*container-selinux"):
        node.policy(root, root / "sys")


def test_selinux_is_off_where_the_kernel_can_not_be_asked(tmp_path: Path) -> None:
    assert not node.enabled(tmp_path)
    (tmp_path / "fs/selinux").mkdir(parents=True)
    assert not node.enabled(tmp_path)
    (tmp_path / "fs/selinux/enforce").write_text("0")
    assert node.enabled(tmp_path)
    assert not node.enforcing(tmp_path)


def label_of(path: Path) -> str:
    try:
        return os.getxattr(path, relabel.XATTR, follow_symlinks=False).decode()
    except OSError:
        return ""


def relabelled(path: str | Path, kept: tuple[str, ...] = (), seconds: float = 60) -> int:
    kept_ = relabel.identities(kept)
    return relabel.relabel(str(path), LABEL, kept_, time.monotonic() + seconds)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    place = tmp_path / "volume"
    (place / "a/b").mkdir(parents=True)
    (place / "a/b/file").touch()
    (tmp_path / "outside").touch()
    (place / "link").symlink_to(tmp_path / "outside")
    (place / "gone").symlink_to("/nowhere")
    os.mkfifo(place / "fifo")
    return place


@pytest.mark.root
def test_all_of_a_volume_is_relabelled_once_and_links_are_not_followed(volume: Path) -> None:
    assert relabelled(volume) == 7
    everything = [volume, *volume.rglob("*")]
    assert {label_of(path) for path in everything} == {LABEL}
    assert label_of(volume.parent / "outside") == ""
    assert relabelled(volume) == 0
    (volume / "a/new").touch()
    assert relabelled(volume) == 1


@pytest.mark.root
def test_a_path_may_lead_to_the_volume_by_a_link_and_may_be_a_file(volume: Path) -> None:
    (volume.parent / "path").symlink_to(volume / "a/b/file")
    assert relabelled(volume.parent / "path") == 1
    assert label_of(volume / "a/b/file") == LABEL
    assert label_of(volume) == ""


@pytest.mark.root
def test_what_belongs_to_the_node_is_refused_by_whatever_name(volume: Path) -> None:
    (volume / "etc").symlink_to("/etc")
    ours = str(volume / "a/b")
    for path in ("/", "/etc", "/usr/../etc/.", volume / "etc", ours, volume / "a", volume.parent):
        with pytest.raises(relabel.Refused, match="belongs to the node"):
            relabelled(path, kept=(ours,))
    assert label_of(Path("/etc")) == label_of(volume / "a/b") == ""


@pytest.mark.root
def test_a_file_system_that_keeps_no_labels_is_said() -> None:
    with pytest.raises(relabel.Refused, match=r"'/proc/self/task': .*keeps no labels"):
        relabelled("/proc/self/task")


@pytest.mark.root
def test_who_has_too_little_time_goes_on_the_next_time(volume: Path) -> None:
    with pytest.raises(relabel.OutOfTime, match="1 files relabelled so far"):
        relabelled(volume, seconds=-1)
    assert relabelled(volume) == 6


@pytest.mark.root
def test_directories_without_an_end_are_refused(tmp_path: Path) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(relabel.DEEPEST + 5):
            os.mkdir("d")
            os.chdir("d")
    finally:
        os.chdir(before)
    with pytest.raises(relabel.Refused, match=f"more than {relabel.DEEPEST} directories") as found:
        relabelled(tmp_path)
    assert len(str(found.value)) < 300


@pytest.mark.root
def test_names_that_are_no_text_can_be_told(volume: Path) -> None:
    name = os.fsdecode(b"\xff\n")
    (volume / name).mkdir()
    kept = (str(volume / name),)
    identity = relabel.identities(kept) - relabel.identities((str(volume),))
    with pytest.raises(relabel.Refused, match="belongs to the node") as found:
        relabel.relabel(str(volume), LABEL, identity, time.monotonic() + 60)
    assert str(found.value).encode().decode().isprintable()


def spec(mount_label: str) -> Spec:
    linux = Linux(mount_label=mount_label)
    return Spec(Process(("sh",), selinux_label=PROCESS), linux=linux)


def test_a_plan_has_the_labels_and_refuses_what_would_be_another_option() -> None:
    made = plan.container(spec(LABEL), Rootfs(("/lower",), "/upper", "/work"))
    assert (made.process.selinux_label, made.root.mount_label) == (PROCESS, LABEL)
    for bad in ('u:r:t",lowerdir="/etc', "x" * 256):
        with pytest.raises(Exception, match=r"linux\.mountLabel: .* can't be a label"):
            plan.container(spec(bad), Rootfs(("/lower",), "/upper", "/work"))


@pytest.mark.root
@pytest.mark.skipif(node.enabled(), reason="SELinux is on here")
def test_a_label_that_the_kernel_refuses_ends_the_start(tmp_path: Path) -> None:
    outcome = Image(tmp_path).sh("true", {"selinux_label": PROCESS})
    assert outcome.failure.startswith("confinement")
    assert f'"{PROCESS}"' in outcome.failure
