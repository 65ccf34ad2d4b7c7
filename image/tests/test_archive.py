"""Images that come in files."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from image.errors import (
    ArchiveMalformed,
    DigestMismatch,
    ReferenceMalformed,
    UnsupportedImage,
)
from image.store import ImageStore
from image.tests import build
from image.tests.build import app, file, tar
from image.tests.invariants import check

pytestmark = pytest.mark.root


def archived(path: Path, target: Path, *, compress: bool = False) -> Path:
    with tarfile.open(target, "w:gz" if compress else "w:") as archive:
        for item in sorted(path.rglob("*")):
            archive.add(item, item.relative_to(path), recursive=False)
    return target


@pytest.mark.parametrize("form", ["directory", "tar", "tar.gz"])
async def test_an_oci_layout_is_imported(store: ImageStore, tmp_path: Path, form: str) -> None:
    built = app()
    path = tmp_path / "layout"
    build.layout([(built, {"org.opencontainers.image.ref.name": "team/app:1"})], path)
    if form != "directory":
        path = archived(path, tmp_path / f"x.{form}", compress=form == "tar.gz")
    (image,) = await store.import_archive(path)
    assert (image.id, image.names) == (built.id, ("docker.io/team/app:1",))
    assert image.digests == (f"docker.io/team/app@{built.digest}",)
    lower = store.prepare(image.id, "c").lower
    assert (Path(lower[0]) / "etc/app").read_bytes() == b"one"
    check(store)


async def test_a_given_name_wins_and_a_bare_tag_is_no_name(
    store: ImageStore, tmp_path: Path
) -> None:
    path = tmp_path / "layout"
    build.layout([(app(), {"org.opencontainers.image.ref.name": "latest"})], path)
    (image,) = await store.import_archive(path)
    assert image.names == ()
    (image,) = await store.import_archive(path, name="quay.io/x/y")
    assert image.names == ("quay.io/x/y:latest",)
    with pytest.raises(ReferenceMalformed):
        await store.import_archive(path, name="NOT A NAME")


async def test_several_images_come_in_one_archive(store: ImageStore, tmp_path: Path) -> None:
    key = "io.containerd.image.name"
    foreign = build.image(tar(), platform={"os": "linux", "architecture": "s390x"}, index=True)
    images = [(app(b"1"), {key: "a.io/x:1"}), (foreign, {}), (app(b"2"), {key: "a.io/x:2"})]
    build.layout(images, tmp_path / "layout")
    found = await store.import_archive(tmp_path / "layout")
    assert [image.names for image in found] == [("a.io/x:1",), ("a.io/x:2",)]
    with pytest.raises(ArchiveMalformed, match="2 images"):
        await store.import_archive(tmp_path / "layout", name="a.io/y:1")


async def test_what_docker_save_writes_is_imported(store: ImageStore, tmp_path: Path) -> None:
    built = app()
    names = ["one/layer.tar", "two/layer.tar"]
    listing = [{"Config": "config.json", "RepoTags": ["app:1"], "Layers": names}]
    path = tmp_path / "saved.tar"
    with tarfile.open(path, "w") as archive:
        contents = dict(zip(names, (layer.plain for layer in built.layers), strict=True))
        contents |= {"config.json": built.config, "manifest.json": json.dumps(listing).encode()}
        for name, data in contents.items():
            archive.addfile(build.member(name, size=len(data)), io.BytesIO(data))
    (image,) = await store.import_archive(path)
    assert (image.id, image.names) == (built.id, ("docker.io/library/app:1",))
    check(store)


async def test_skopeo_and_we_agree_on_a_layout(store: ImageStore, tmp_path: Path) -> None:
    built = app()
    build.layout([(built, {"org.opencontainers.image.ref.name": "1"})], tmp_path / "in")
    target = f"oci-archive:{tmp_path / 'out.tar'}:team/app:1"
    command = ["skopeo", "--insecure-policy", "copy", f"oci:{tmp_path / 'in'}:1", target]
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    (image,) = await store.import_archive(tmp_path / "out.tar")
    assert (image.id, image.names) == (built.id, ("docker.io/team/app:1",))


async def test_a_malformed_archive_is_named(store: ImageStore, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"7" * 7000)
    with pytest.raises(ArchiveMalformed, match=r"/x: .*no tar archive"):
        await store.import_archive(path)
    path.write_bytes(gzip.compress(tar(file("f"))))
    with pytest.raises(ArchiveMalformed, match=r"index.json .*manifest.json"):
        await store.import_archive(path)
    with pytest.raises(FileNotFoundError):
        await store.import_archive(tmp_path / "nowhere")
    layout = tmp_path / "layout"
    built = app()
    build.layout([(built, {})], layout)
    blob = layout / "blobs/sha256" / build.digest(built.layers[0].blob)[7:]
    blob.write_bytes(bytes(blob.stat().st_size))
    with pytest.raises(DigestMismatch, match="layer 1"):
        await store.import_archive(layout)
    blob.unlink()
    with pytest.raises(ArchiveMalformed, match="missing"):
        await store.import_archive(layout)
    (layout / "index.json").write_text("{}")
    with pytest.raises((ArchiveMalformed, UnsupportedImage), match=r"index.json"):
        await store.import_archive(layout)
    assert store.list() == ()
    check(store)


async def test_names_in_an_archive_lead_nowhere_else(store: ImageStore, tmp_path: Path) -> None:
    """A blob that is a link to a file of the node is no blob."""
    layout = tmp_path / "layout"
    built = app()
    build.layout([(built, {})], layout)
    blob = layout / "blobs/sha256" / built.id[7:]
    (tmp_path / "secret").write_bytes(blob.read_bytes())
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    with pytest.raises(ArchiveMalformed, match="missing"):
        await store.import_archive(layout)
