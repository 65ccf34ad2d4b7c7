"""The root file system, and what is mounted on it. Every test starts a real container."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.init import skeleton
from runtime.spec import (
    Mount,
    Root,
    Rootfs,
    Spec,
)
from runtime.tests.init_support import MOUNTS, PROC, Image, bind, spec

pytestmark = pytest.mark.root


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def with_mounts(wanted: Spec, *mounts: Mount) -> Spec:
    return replace(wanted, mounts=(*MOUNTS, *mounts))


def test_only_the_containers_own_mounts_are_visible(image: Image) -> None:
    mounts = [line.split()[4] for line in image.sh("cat /proc/self/mountinfo").lines]
    assert mounts[0] == "/"
    assert {"/proc", "/dev", "/dev/pts", "/dev/mqueue", "/dev/shm", "/sys"} <= set(mounts)
    assert not any(str(image.directory) in path for path in mounts)


def test_without_a_tmpfs_at_dev_the_nodes_are_made_in_the_image(image: Image) -> None:
    image.write("dev/null", "an exported image may have a file here")
    wanted = replace(spec("sh", "-c", "stat -c %t:%T /dev/null"), mounts=(PROC,))
    assert image.run(wanted).lines == ["1:3"]


def test_a_bound_dev_is_left_alone(image: Image, tmp_path: Path) -> None:
    dev = tmp_path / "dev"
    dev.mkdir()
    os.mknod(dev / "null", 0o20666, os.makedev(1, 3))
    wanted = replace(spec("sh", "-c", "ls /dev"), mounts=(PROC, bind(dev, "/dev")))
    assert image.run(wanted).lines == ["null"]


def test_the_root_can_be_read_only(image: Image) -> None:
    wanted = spec("sh", "-c", "touch /x; echo $?; touch /dev/shm/x; echo $?")
    outcome = image.run(replace(wanted, root=Root(readonly=True)))
    assert outcome.lines == ["1", "0"]
    assert "Read-only file system" in outcome.stderr


def test_a_read_only_root_can_hold_new_mount_points(image: Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the node\n")
    wanted = with_mounts(
        spec("sh", "-c", "cat /new/file; touch /x; echo $?"),
        bind(tmp_path / "file", "/new/file"),
        bind(tmp_path, "/other/new"),
    )
    outcome = image.run(replace(wanted, root=Root(readonly=True)))
    assert outcome.lines == ["of the node", "1"]


def test_a_directory_can_be_the_root(image: Image) -> None:
    wanted = replace(spec("sh", "-c", "echo hi > /tmp/x"), root=Root(str(image.lower)))
    assert image.run(wanted, rootfs=Rootfs()).lines == []
    assert (image.lower / "tmp/x").read_text() == "hi\n"


def test_what_is_written_goes_to_the_upper_layer(image: Image) -> None:
    assert image.sh("echo new > /etc/new").lines == []
    assert (image.upper / "etc/new").read_text() == "new\n"
    assert not (image.lower / "etc/new").exists()


def test_the_image_may_have_no_directories_for_the_mounts(image: Image) -> None:
    for name in ("dev", "proc", "sys"):
        (image.lower / name).rmdir()
    assert "null" in image.sh("ls /dev").lines


def test_files_and_directories_are_bound(image: Image, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("of the node\n")
    (tmp_path / "dir").mkdir()
    wanted = with_mounts(
        spec("sh", "-c", "cat /new/path/file; echo x > /vol/x; echo y > /ro/y"),
        bind(tmp_path / "file", "/new/path/file", "ro"),
        bind(tmp_path / "dir", "/vol"),
        bind(tmp_path / "dir", "/ro", "ro"),
    )
    outcome = image.run(wanted)
    assert outcome.stdout == "of the node\n"
    assert outcome.status == 1
    assert "Read-only file system" in outcome.stderr
    assert [path.name for path in (tmp_path / "dir").iterdir()] == ["x"]


def test_a_mount_on_a_dangling_link_makes_what_it_points_to(image: Image, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    (image.lower / "etc/resolv.conf").symlink_to("../run/resolve/stub.conf")
    (image.lower / "run").symlink_to("/var/run")
    wanted = with_mounts(
        spec("cat", "/etc/resolv.conf"), bind(tmp_path / "resolv.conf", "/etc/resolv.conf")
    )
    assert image.run(wanted).lines == ["nameserver 192.0.2.1"]


def test_a_missing_source_is_named_with_its_destination(image: Image, tmp_path: Path) -> None:
    outcome = image.run(with_mounts(spec("true"), bind(tmp_path / "gone", "/data")))
    assert outcome.failure == (
        f'mount sources: mount "{tmp_path}/gone" on "/data" in the container: '
        "the source does not exist on the node"
    )


def test_a_directory_on_a_file_is_refused_by_name(image: Image, tmp_path: Path) -> None:
    for source, destination in ((tmp_path, "/etc/passwd"), ("/etc/passwd", "/etc")):
        outcome = image.run(with_mounts(spec("true"), bind(source, destination)))
        assert outcome.failure == (
            f"mounts: bind {source} -> {destination}: "
            "a directory can only be mounted on a directory, a file only on a file"
        )


def test_an_unknown_option_is_told_with_the_kernels_words(image: Image) -> None:
    mount = Mount("/x", "tmpfs", "tmpfs", ("colour=red",))
    assert image.run(with_mounts(spec("true"), mount)).failure == (
        "mounts: tmpfs -> /x: tmpfs: Unknown parameter 'colour'"
    )


def test_tmpfs_takes_size_and_mode(image: Image) -> None:
    mount = Mount("/scratch", "tmpfs", "tmpfs", ("size=16k", "mode=1770", "noexec"))
    wanted = with_mounts(spec("sh", "-c", "stat -c %a /scratch; grep scratch /proc/mounts"), mount)
    mode, line = image.run(wanted).lines
    assert mode == "1770"
    assert {"noexec", "size=16k"} <= set(line.split()[3].split(","))


def test_a_read_only_tmpfs_can_still_hold_mount_points(image: Image, tmp_path: Path) -> None:
    mount = Mount("/fixed", "tmpfs", "tmpfs", ("ro",))
    wanted = with_mounts(
        spec("sh", "-c", "ls /fixed; touch /fixed/y; echo $?"), mount, bind(tmp_path, "/fixed/x")
    )
    assert image.run(wanted).lines == ["x", "1"]


def test_masked_paths_are_empty_and_readonly_paths_are_read_only(image: Image) -> None:
    image.write("secret/key", "k")
    image.write("file", "f")
    outcome = image.sh(
        "ls -A /secret; cat /file; touch /secret/x /etc/x; echo $?; echo > /proc/sys/kernel/panic",
        masked_paths=("/secret", "/file", "/proc/keys", "/absent", "/file/absent"),
        readonly_paths=("/etc", "/proc/sys", "/absent"),
    )
    assert outcome.stdout == "1\n"
    assert outcome.stderr.count("Read-only file system") == 3


def test_sys_fs_cgroup_shows_the_own_cgroups_as_root(image: Image) -> None:
    lines = image.sh("cat /proc/self/cgroup; ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/*/x").stdout
    assert all(line.endswith(":/") for line in lines.splitlines() if ":" in line)
    assert "x" not in lines.split()


def test_an_old_kernel_mounts_the_overlay_by_path(image: Image, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    (tmp_path / "second/below").write_text("below\n")
    rootfs = image.rootfs()
    rootfs = replace(rootfs, lower=(*rootfs.lower, str(tmp_path / "second")))
    wanted = with_mounts(spec("sh", "-c", "cat /below; echo x > /new"), bind(tmp_path, "/mnt"))
    outcome = image.run(wanted, rootfs=rootfs, old_kernel=True)
    assert outcome.lines == ["below"]
    assert (image.upper / "new").read_text() == "x\n"


def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    assert Image(deep).sh("echo fine").lines == ["fine"]


def test_a_missing_layer_is_named(image: Image) -> None:
    rootfs = replace(image.rootfs(), lower=("/absent/layer",))
    failure = image.run(spec("true"), rootfs=rootfs).failure
    assert failure == 'root file system: the layer directory "/absent/layer" is missing'


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that the driver makes a shared mount, with one more mount in it."""
    (tmp_path / "shared/inner").mkdir(parents=True)
    return tmp_path / "shared"


@pytest.mark.parametrize(
    ("option", "kind"), [("rprivate", ""), ("rslave", "master:"), ("rshared", "shared:")]
)
def test_propagation_is_what_was_asked(image: Image, shared: Path, option: str, kind: str) -> None:
    volume = Mount("/volume", "bind", str(shared), ("rbind", option))
    wanted = with_mounts(spec("grep", " /volume ", "/proc/self/mountinfo"), volume)
    (line,) = image.run(wanted, share=str(shared)).lines
    optional = line.split(" - ")[0].split()[6:]
    assert [field.split(":")[0] + ":" for field in optional] == ([kind] if kind else [])


@pytest.mark.parametrize(("option", "kind"), [("rslave", "shared or slave"), ("rshared", "shared")])
def test_propagation_from_a_private_mount_is_refused(
    image: Image, shared: Path, option: str, kind: str
) -> None:
    volume = Mount("/volume", "bind", str(shared), ("rbind", option))
    failure = image.run(with_mounts(spec("true"), volume)).failure
    assert f"the source lies on a mount of the node that is not {kind}; " in failure


@pytest.mark.parametrize(("option", "status"), [("ro", "0"), ("rro", "1")])
def test_recursive_read_only_reaches_the_mounts_below(
    image: Image, shared: Path, option: str, status: str
) -> None:
    volume = Mount("/volume", "bind", str(shared), ("rbind", "rprivate", option))
    script = "touch /volume/x 2> /dev/null; echo $?; touch /volume/inner/x 2> /dev/null; echo $?"
    outcome = image.run(with_mounts(spec("sh", "-c", script), volume), share=str(shared / "inner"))
    assert outcome.lines == ["1", status]


def test_with_a_skeleton_below_the_writable_layer_stays_empty(image: Image, tmp_path: Path) -> None:
    for name in ("dev", "proc", "sys"):
        (image.lower / name).rmdir()
    below = tmp_path / "skeleton"
    skeleton.make(str(below))
    skeleton.make(str(below))
    rootfs = image.rootfs()
    rootfs = replace(rootfs, lower=(*rootfs.lower, str(below)))
    (tmp_path / "hosts").write_text("::1 me\n")
    wanted = with_mounts(
        spec("cat", "/etc/hosts"),
        bind(tmp_path / "hosts", "/etc/hosts"),
        bind(tmp_path, "/var/run/secrets/kubernetes.io/serviceaccount", "ro"),
    )
    assert image.run(wanted, rootfs=rootfs).lines == ["::1 me"]
    assert list(image.upper.iterdir()) == []


def test_what_the_image_has_shadows_the_skeleton(image: Image, tmp_path: Path) -> None:
    skeleton.make(str(tmp_path / "skeleton"))
    (image.lower / "run").mkdir()
    (image.lower / "var").mkdir()
    (image.lower / "var/run").symlink_to("/run")
    image.write("etc/hostname", "of the image\n")
    rootfs = image.rootfs()
    rootfs = replace(rootfs, lower=(*rootfs.lower, str(tmp_path / "skeleton")))
    token = bind(image.lower / "etc", "/var/run/secrets/kubernetes.io/serviceaccount", "ro")
    script = "cat /etc/hostname; readlink /var/run; ls /run/secrets/kubernetes.io/serviceaccount"
    outcome = image.run(with_mounts(spec("sh", "-c", script), token), rootfs=rootfs)
    assert outcome.lines == ["of the image", "/run", "group", "hostname", "passwd"]


def test_a_mount_point_that_can_not_be_made_is_told(image: Image, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    wanted = with_mounts(
        spec("true"),
        bind(tmp_path / "volume", "/volume", "ro"),
        bind(tmp_path, "/volume/below"),
    )
    assert image.run(wanted).failed == [
        "mounts",
        errno.EROFS,
        f"bind {tmp_path} -> /volume/below: the mount point is missing, and can't be made",
    ]
