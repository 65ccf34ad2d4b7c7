"""What needs a mount: overlays of what we unpack, and file systems that are full.

Each runs in a process of its own in a mount namespace of its own: nothing is mounted on the node.
"""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

HEAD = """
import asyncio, json, os, subprocess, sys
from pathlib import Path
import pytest
from image.errors import StorageFull
from image.store import ImageStore
from image.tests import build
from image.tests.build import file, folder, hardlink, symlink, tar
from image.tests.conftest import settings
from image.tests.invariants import check, tree
from image.tests.registry import FakeRegistry

scratch = Path(sys.argv[1])

async def imported(store, built, name="app"):
    path = scratch / ("layout" + built.digest[7:19])
    build.layout([(built, {})], path)
    (image,) = await store.import_archive(path, name=name)
    return image

def mounted(overlay):
    target = scratch / "merged"
    target.mkdir(exist_ok=True)
    options = f"lowerdir={':'.join(overlay.lower)},upperdir={overlay.upper},workdir={overlay.work}"
    subprocess.run(["mount", "-t", "overlay", "none", target, "-o", options], check=True)
    return target

def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))
"""


def run_inside(tmp_path: Path, body: str, *, options: str = "size=256m") -> None:
    """Run `main()` of a script below a tmpfs of its own; options: of that mount."""
    repository = str(Path(__file__).parents[2])
    script = tmp_path / "script.py"
    script.write_text(HEAD + textwrap.dedent(body) + "\nasyncio.run(main())\n")
    place = tmp_path / "mnt"
    place.mkdir()
    unshare = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    shell = f"mount -t tmpfs -o {options} none {place} && exec {sys.executable} {script} {place}"
    done = subprocess.run(
        [*unshare, shell],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": repository},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_overlayfs_shows_what_the_image_says(tmp_path: Path) -> None:
    """The same tree that applying the layers one after the other gives."""
    body = """
    async def main():
        store = await ImageStore.open(scratch / "root", settings())
        keep = folder("keep", mode=0o700, uid=3)
        base = tar(
            *(folder("./", mode=0o755), keep, file("keep/a", b"1"), file("keep/b", b"1")),
            *(folder("drop"), file("drop/x"), folder("wiped"), file("wiped/old")),
            *(folder("renewed"), file("renewed/old"), file("file", b"1"), file("turns")),
            *(folder("folds"), file("folds/in"), folder("deep")),
            *(folder("deep/er", mode=0o710), file("deep/er/x", b"x")),
        )
        middle = tar(
            *(keep, file("keep/.wh.a"), file("keep/c", b"2"), file(".wh.drop"), folder("wiped")),
            *(file("wiped/.wh..wh..opq"), file("wiped/new"), file(".wh.renewed")),
            *(folder("renewed"), file("renewed/new"), file("file", b"2"), file(".wh.turns")),
            *(folder("turns"), file("turns/in"), file("folds", b"f")),
        )
        top = tar(file("keep/a", b"3"), file("deep/er/y", b"y"), hardlink("deep/er/z", "deep/er/x"))
        image = await imported(store, build.image(base, middle, top))
        root = mounted(store.prepare(image.id, "c"))
        expected = ["deep", "deep/er", "deep/er/x", "deep/er/y", "deep/er/z", "file", "folds",
                    "keep", "keep/a", "keep/b", "keep/c", "renewed", "renewed/new", "turns",
                    "turns/in", "wiped", "wiped/new"]
        assert listing(root) == expected, listing(root)
        for name, data in (("file", b"2"), ("keep/a", b"3"), ("folds", b"f"), ("deep/er/z", b"x")):
            assert (root / name).read_bytes() == data
        assert (root / "keep").stat().st_mode & 0o7777 == 0o700
        assert (root / "keep").stat().st_uid == 3
        assert (root / "deep/er").stat().st_mode & 0o7777 == 0o710
        (root / "drop").write_text("again")
        (root / "keep/c").unlink()
        assert "keep/c" not in listing(root)
        subprocess.run(["umount", root], check=True)
        check(store)
        await store.close()
    """
    run_inside(tmp_path, body)


def test_the_roots_of_images_are_mounted_with_their_own_mode(tmp_path: Path) -> None:
    body = """
    async def main():
        store = await ImageStore.open(scratch / "root", settings())
        built = build.image(tar(folder("./", mode=0o1750, uid=1, gid=2), file("f")), tar(file("g")))
        image = await imported(store, built)
        root = mounted(store.prepare(image.id, "c"))
        assert (root.stat().st_mode & 0o7777, root.stat().st_uid) == (0o1750, 1)
        empty = await imported(store, build.image(), "empty")
        subprocess.run(["umount", root], check=True)
        assert listing(mounted(store.prepare(empty.id, "e"))) == []
        await store.close()
    """
    run_inside(tmp_path, body)


def test_containers_on_a_disk_of_their_own_are_told_as_such(tmp_path: Path) -> None:
    body = """
    async def main():
        own = scratch / "root/containers"
        own.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", own], check=True)
        store = await ImageStore.open(scratch / "root", settings())
        usage = store.usage()
        assert usage.containers.mountpoint == str(own)
        assert usage.images.mountpoint == str(scratch / "root")
        await store.close()
    """
    run_inside(tmp_path, body)


def test_layers_that_occur_twice_can_be_mounted(tmp_path: Path) -> None:
    body = """
    async def main():
        store = await ImageStore.open(scratch / "root", settings())
        twice = tar(file("x", b"twice"))
        image = await imported(store, build.image(twice, tar(file(".wh.x"), file("y")), twice))
        root = mounted(store.prepare(image.id, "c"))
        assert listing(root) == ["x", "y"]
        assert (root / "x").read_bytes() == b"twice"
        await store.close()
    """
    run_inside(tmp_path, body)


@pytest.mark.parametrize("what", ["bytes", "inodes"])
def test_a_full_disk_fails_the_pull_and_leaves_nothing(tmp_path: Path, what: str) -> None:
    """The image compresses well, so that only unpacking finds out."""
    contents = (
        'file("zeros", bytes(40 << 20))'
        if what == "bytes"
        else ("*(file(str(number)) for number in range(3000))")
    )
    body = f"""
    async def main():
        store = await ImageStore.open(scratch / "root", settings())
        small = await imported(store, build.image(tar(file("small"))), "small")
        built = build.image(tar({contents}), tar(file("second", b"x" * 100000)))
        with FakeRegistry() as registry:
            name = registry.add(built, "a", "1")
            with pytest.raises(StorageFull, match="no room left on the file system of"):
                await store.pull(name)
        assert store.list() == (small,)
        check(store)
        assert len(tree(store)) == 1
        assert not any(layer.pending for layer in store._catalog.layers.values())
        await store.remove(small.id)
        assert tree(store) == []
        await store.close()
        assert os.listdir(scratch / "root" / "tmp") == ["workers.lock"]
    """
    run_inside(tmp_path, body, options="size=24m" if what == "bytes" else "size=24m,nr_inodes=1500")


def test_what_can_not_fit_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    body = """
    async def main():
        store = await ImageStore.open(scratch / "root", settings())
        built = build.image(build.BuiltLayer.of(tar(file("noise", os.urandom(20 << 20)))))
        with FakeRegistry() as registry:
            name = registry.add(built, "a", "1")
            with pytest.raises(StorageFull, match=r"\\d+ bytes to fetch, \\d+ bytes free"):
                await store.pull(name)
            assert not registry.paths(build.digest(built.layers[0].blob))
        check(store)
        await store.close()
    """
    run_inside(tmp_path, body, options="size=16m")


def test_the_nodes_reserve_stops_a_bomb(tmp_path: Path) -> None:
    body = """
    from image.settings import UnpackLimits
    async def main():
        limits = UnpackLimits(reserve_bytes=64 << 20)
        store = await ImageStore.open(scratch / "root", settings(limits=limits))
        built = build.image(tar(file("bomb", bytes(100 << 20))))
        with FakeRegistry() as registry:
            with pytest.raises(StorageFull, match="kept in reserve"):
                await store.pull(registry.add(built, "a", "1"))
        check(store)
        await store.close()
    """
    run_inside(tmp_path, body, options="size=100m")
