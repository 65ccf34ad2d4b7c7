"""Layers become directories; hostile ones become nothing, and never anything outside."""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image.errors import LayerMalformed, StorageFull
from image.settings import UnpackLimits
from image.tests.build import Item, file, folder, hardlink, member, symlink, tar
from image.unpack import Result, settle, unpack
from image.unpack.apply import Attributes, Counters
from image.unpack.tree import OPAQUE

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted attributes"),
]

LIMITS = UnpackLimits(reserve_bytes=0)


@pytest.fixture(autouse=True)
def no_umask() -> Iterator[None]:
    old = os.umask(0)
    yield
    os.umask(old)


Unpack = Callable[..., tuple[Path, Result]]


@pytest.fixture
def layer(tmp_path: Path) -> Unpack:
    """Unpack entries into a new directory below tmp_path/cage; what lies beside it is the world."""
    numbers = iter(range(100))
    (tmp_path / "secret").write_text("of the node")

    def run(*items: Item | bytes, limits: UnpackLimits = LIMITS) -> tuple[Path, Result]:
        target = tmp_path / f"layer{next(numbers)}"
        target.mkdir()
        data = items[0] if isinstance(items[0], bytes) else tar(*items)  # type: ignore[arg-type]
        chunks = (data[at : at + 999] for at in range(0, len(data), 999))
        return target, unpack(chunks, target, limits, Counters())

    return run


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def is_whiteout(path: Path) -> bool:
    status = path.lstat()
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(path: Path) -> bool:
    try:
        return os.getxattr(path, OPAQUE) == b"y"
    except OSError:
        return False


def test_files_get_their_contents_owner_mode_and_time(layer: Unpack) -> None:
    root, result = layer(
        folder("./", mode=0o750, uid=5, gid=6),
        folder("d", mode=0o2775, gid=50, mtime=1_000_000_000),
        file("d/f", b"x" * 5000, mode=0o4711, uid=1, gid=2, mtime=1_000_000_007),
        file("d/g", mode=0o444),
        symlink("d/s", "f", uid=3, gid=4),
        hardlink("d/h", "d/f"),
        (member("null", tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), b""),
        (member("pipe", tarfile.FIFOTYPE, mode=0o640, uid=9), b""),
    )
    assert (root / "d/f").read_bytes() == b"x" * 5000
    status = (root / "d/f").stat()
    assert (status.st_uid, status.st_gid, status.st_mtime, status.st_nlink) == (1, 2, 1e9 + 7, 2)
    assert [mode(root / name) for name in ("d/f", "d/g", "d", "null", "pipe")] == [
        *(0o4711, 0o444, 0o2775, 0o666, 0o640)
    ]
    folder_status = (root / "d").stat()
    assert (folder_status.st_gid, folder_status.st_mtime) == (50, 1e9)
    assert (root / "d/g").stat().st_gid == 0, "a set-gid directory must not pass its group on"
    assert os.readlink(root / "d/s") == "f"
    assert (root / "d/s").lstat().st_uid == 3
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert (root / "pipe").stat().st_uid == 9
    assert (mode(root), root.stat().st_uid) == (0o750, 5)
    assert result.root == Attributes(0o750, 5, 6)
    assert (result.implicit, result.links, result.inodes) == ((), (), 7)


def test_gnu_tar_and_we_unpack_a_real_tree_alike(layer: Unpack, tmp_path: Path) -> None:
    data = subprocess.run(
        ["tar", "-C", "/", "-cf", "-", "etc/alternatives", "etc/ssl", "etc/init.d"],
        check=True,
        capture_output=True,
    ).stdout
    ours, _ = layer(data)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    subprocess.run(["tar", "-C", theirs, "-xpf", "-"], input=data, check=True)
    listing = ["find", ".", "-mindepth", "2", "-printf", "%P %y %m %U %G %T@ %l\n"]
    found = [
        sorted(subprocess.run(listing, cwd=at, check=True, capture_output=True).stdout.split(b"\n"))
        for at in (ours, theirs)
    ]
    assert len(found[0]) > 20
    assert found[0] == found[1]
    subprocess.run(["diff", "-r", "--no-dereference", ours, theirs], check=True)


def test_later_entries_replace_earlier_ones(layer: Unpack) -> None:
    root, result = layer(
        file("a", b"1"),
        file("a", b"2"),
        folder("b"),
        file("b/deep", b"x"),
        file("b", b"now a file"),
        file("c", b"x"),
        folder("c"),
        file("c/in", b"y"),
        symlink("d", "c"),
        folder("d"),
        file("d/in", b"z"),
        folder("c", mode=0o700),
    )
    assert (root / "a").read_bytes() == b"2"
    assert (root / "b").read_bytes() == b"now a file"
    assert (root / "c/in").read_bytes() == b"y"
    assert mode(root / "c") == 0o700
    assert (root / "d").is_dir()
    assert not (root / "d").is_symlink()
    assert (root / "d/in").read_bytes() == b"z"
    assert result.implicit == ()


def test_a_replaced_file_does_not_change_its_other_names(layer: Unpack) -> None:
    root, _ = layer(file("a", b"1"), hardlink("b", "a"), file("a", b"2"))
    assert ((root / "a").read_bytes(), (root / "b").read_bytes()) == (b"2", b"1")


def test_links_inside_the_layer_are_followed_inside_the_layer(layer: Unpack) -> None:
    root, result = layer(
        folder("usr"),
        folder("usr/lib"),
        symlink("lib", "usr/lib"),
        symlink("abs", "/usr/lib"),
        symlink("up", "../../../usr/lib"),
        symlink("usr/back", ".."),
        file("lib/1"),
        file("abs/2"),
        file("up/3"),
        file("usr/back/usr/lib/4"),
        hardlink("5", "lib/1"),
    )
    assert sorted(os.listdir(root / "usr/lib")) == ["1", "2", "3", "4"]
    assert (root / "5").stat().st_ino == (root / "usr/lib/1").stat().st_ino
    assert result.implicit == ()


def test_attributes_that_speak_to_the_node_are_passed_over(layer: Unpack) -> None:
    capability = "\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    headers = {
        "SCHILY.xattr.user.mine": "1",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/",
        "SCHILY.xattr.security.selinux": "label",
        "SCHILY.xattr.security.capability": capability,
    }
    root, _ = layer(file("f", uid=1, pax_headers=headers))
    assert sorted(os.listxattr(root / "f")) == ["security.capability", "user.mine"]
    assert not is_opaque(root / "f")


# --- whiteouts ------------------------------------------------------------------------------------


def test_whiteouts_become_what_overlayfs_wants(layer: Unpack) -> None:
    root, result = layer(
        folder("d"), file("d/.wh.gone"), folder("o"), file("o/.wh..wh..opq"), file("o/new")
    )
    assert is_whiteout(root / "d/gone")
    assert is_opaque(root / "o")
    assert sorted(os.listdir(root / "o")) == ["new"]
    assert not result.opaque


def test_whiteouts_hide_nothing_of_their_own_layer(layer: Unpack) -> None:
    root, _ = layer(
        *(file(".wh.file"), file("file", b"1")),
        *(file("file2", b"2"), file(".wh.file2")),
        *(file(".wh.dir"), folder("dir"), file("dir/in")),
        *(folder("dir2"), file("dir2/in"), file(".wh.dir2")),
        *(file(".wh.dir3"), file("dir3/in")),
        *(file(".wh.a"), file(".wh.a")),
    )
    assert [(root / name).read_bytes() for name in ("file", "file2")] == [b"1", b"2"]
    for name in ("dir", "dir2", "dir3"):
        assert (root / name / "in").exists()
        assert is_opaque(root / name), "a directory made anew shows nothing of the old one"
    assert is_whiteout(root / "a")


def test_an_opaque_root_cuts_the_stack(layer: Unpack) -> None:
    root, result = layer(file(".wh..wh..opq"), file("f"))
    assert result.opaque
    assert os.listdir(root) == ["f"]


def test_bookkeeping_of_aufs_is_passed_over(layer: Unpack) -> None:
    root, _ = layer(folder(".wh..wh.plnk"), file(".wh..wh.aufs"), file("f"))
    assert os.listdir(root) == ["f"]


# --- hostile layers -------------------------------------------------------------------------------

DEEP = "a/" * 300
HOSTILE: dict[str, tuple[Item, ...]] = {
    "dot dot": (file("../secret", b"!"),),
    "dot dot inside": (folder("d"), file("d/../../secret", b"!")),
    "dot dot at the end": (folder("d/.."),),
    "dot dot as a directory": (folder(".."),),
    "hard link outside": (hardlink("h", "../secret"),),
    "hard link to the root": (hardlink("h", "/"),),
    "hard link to a directory": (folder("d"), hardlink("h", "d")),
    "symbolic link to nothing": (symlink("s", ""),),
    "symbolic link that loops": (symlink("a", "b"), symlink("b", "a"), file("a/f")),
    "symbolic link to itself": (symlink("a", "a"), file("a/f")),
    "file as a directory": (file("f"), file("f/g")),
    "root as a file": (file("./", b""), (member(".", tarfile.REGTYPE), b"")),
    "root as a link": (symlink(".", "/etc"),),
    "root as a device": ((member("/", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),),
    "whiteout of nothing": (file(".wh."),),
    "whiteout of the directory": (file("d/.wh.."),),
    "whiteout of the parent": (
        folder("d"),
        file("d/.wh..."),
    ),
    "name too long": (file("n" * 256),),
    "path too long": (file("d/" * 2100 + "f"),),
    "nested too deep": (file(DEEP + "f"),),
    "nested too deep by links": (
        folder("d/" * 200),
        symlink("s", "d/" * 200),
        file("s/" + "e/" * 100),
    ),
    "device number": ((member("c", tarfile.CHRTYPE, devmajor=0o7777777, devminor=1), b""),),
    "unknown type": ((member("x", b"Z"), b""),),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_layer_is_refused(layer: Unpack, tmp_path: Path, case: str) -> None:
    with pytest.raises(LayerMalformed):
        layer(*HOSTILE[case])
    assert (tmp_path / "secret").read_text() == "of the node"
    assert (tmp_path / "secret").stat().st_nlink == 1
    assert sorted(os.listdir(tmp_path)) == ["layer0", "secret"]


CONTAINED: dict[str, tuple[tuple[Item, ...], str]] = {
    "absolute name": ((file("/etc/passwd", b"!"),), "etc/passwd"),
    "many slashes": ((file("//etc///passwd", b"!"),), "etc/passwd"),
    "link to the node's root": ((symlink("r", "/"), file("r/secret", b"!")), "secret"),
    "link upwards": ((symlink("u", ".."), file("u/secret", b"!")), "secret"),
    "link far upwards": ((symlink("u", "../" * 30 + "secret"), file("u/f", b"!")), "secret/f"),
    "link to a link": (
        (symlink("a", "b"), symlink("b", "../.."), file("a/secret", b"!")),
        "secret",
    ),
    "link replaced by a directory": (
        (symlink("d", "/etc"), folder("d"), file("d/f", b"!")),
        "d/f",
    ),
    "directory replaced by a link": (
        (folder("d"), file("d/x"), symlink("d", "/"), file("d/secret", b"!")),
        "secret",
    ),
    "file through a link to a file": (
        (symlink("f", "../secret"), file("f", b"!")),
        "f",
    ),
    "hard link to a symbolic link": (
        (symlink("s", "/etc/hostname"), hardlink("h", "s"), file("x", b"!")),
        "x",
    ),
    "hard link to an absolute name": ((file("f", b"!"), hardlink("h", "/f")), "h"),
    "whiteout through a link": (
        (symlink("u", ".."), file("u/.wh.secret"), file("x", b"!")),
        "x",
    ),
}


@pytest.mark.parametrize("case", CONTAINED)
def test_an_odd_layer_stays_inside(layer: Unpack, tmp_path: Path, case: str) -> None:
    items, place = CONTAINED[case]
    root, _ = layer(*items)
    assert (root / place).read_bytes() == b"!"
    assert (tmp_path / "secret").read_text() == "of the node"
    assert sorted(os.listdir(tmp_path)) == ["layer0", "secret"]


def test_entries_are_counted(layer: Unpack) -> None:
    with pytest.raises(LayerMalformed, match="more than 3 entries"):
        layer(
            *(file(str(number)) for number in range(4)),
            limits=UnpackLimits(entries=3, reserve_bytes=0),
        )


def test_the_nodes_reserve_is_left_alone(layer: Unpack) -> None:
    with pytest.raises(StorageFull, match="kept in reserve"):
        layer(file("f"), limits=UnpackLimits(reserve_bytes=1 << 60))


# --- what needs the layers below ------------------------------------------------------------------


def test_directories_left_out_take_over_what_they_lie_upon(layer: Unpack) -> None:
    lower, _ = layer(
        folder("a", mode=0o1750, uid=7, gid=8), folder("a/b", mode=0o700), folder("x", mode=0o711)
    )
    root, result = layer(file("a/b/c/f"), file("x/.wh.y"))
    assert result.implicit == (b"a", b"a/b", b"a/b/c", b"x")
    settle(root, result, [lower], LIMITS.depth)
    assert [mode(root / name) for name in ("a", "a/b", "a/b/c", "x")] == [
        0o1750,
        0o700,
        0o755,
        0o711,
    ]
    assert ((root / "a").stat().st_uid, (root / "a").stat().st_gid) == (7, 8)


def test_what_is_hidden_below_is_not_taken_over(layer: Unpack) -> None:
    bottom, _ = layer(
        folder("a", mode=0o700), folder("b", mode=0o700), folder("c"), folder("c/d", mode=0o700)
    )
    middle, _ = layer(file(".wh.a"), file("b"), folder("c"), file("c/.wh..wh..opq"))
    root, result = layer(file("a/f"), file("b/f"), file("c/d/f"))
    settle(root, result, [middle, bottom], LIMITS.depth)
    assert [mode(root / name) for name in ("a", "b", "c/d")] == [0o755] * 3


def test_a_hard_link_into_a_lower_layer_gets_a_copy(layer: Unpack) -> None:
    lower, _ = layer(
        folder("d", mode=0o700), file("d/f", b"data", mode=0o4755, uid=3), symlink("s", "t")
    )
    root, result = layer(hardlink("h", "d/f"), hardlink("i", "/d/f"), hardlink("t", "s"))
    assert len(result.links) == 3
    settle(root, result, [lower], LIMITS.depth)
    assert (root / "h").read_bytes() == b"data"
    assert (root / "h").stat().st_ino == (root / "i").stat().st_ino == (root / "d/f").stat().st_ino
    assert (mode(root / "h"), (root / "h").stat().st_uid) == (0o4755, 3)
    assert mode(root / "d") == 0o700
    assert os.readlink(root / "t") == "t"


def test_a_hard_link_to_a_later_entry_finds_it(layer: Unpack) -> None:
    root, result = layer(hardlink("h", "f"), file("f", b"late"))
    settle(root, result, [], LIMITS.depth)
    assert (root / "h").read_bytes() == b"late"


@pytest.mark.parametrize("target", ["nowhere", "gone", "d"])
def test_a_hard_link_to_nothing_is_refused(layer: Unpack, target: str) -> None:
    lower, _ = layer(file("gone"), folder("d"))
    root, result = layer(file(".wh.gone"), hardlink("h", target))
    with pytest.raises(LayerMalformed, match="hard link"):
        settle(root, result, [lower], LIMITS.depth)
