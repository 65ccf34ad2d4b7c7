"""Pulls through the facade, from Debian's docker-registry."""

from __future__ import annotations

import pytest

from image.store import ImageStore, PullProgress
from image.tests import build
from image.tests.build import file, folder, tar

pytestmark = pytest.mark.root


def app(text: bytes = b"one") -> build.BuiltImage:
    base = tar(folder("bin"), file("bin/sh", b"#!", mode=0o755), folder("etc"), file("etc/a", b"a"))
    return build.image(base, tar(folder("etc"), file("etc/app", text), file("etc/.wh.a")))


async def test_a_pulled_image_is_listed_and_found_by_all_its_names(
    store: ImageStore, real_registry: str
) -> None:
    built = app()
    build.push(built, real_registry, "team/app", "1")
    image = await store.pull(f"{real_registry}/team/app:1")
    assert image.id == built.id
    assert image.names == (f"{real_registry}/team/app:1",)
    assert image.digests == (f"{real_registry}/team/app@{built.digest}",)
    assert image.config.cmd == ("/bin/true",)
    assert store.list() == (image,)
    bare = built.id.removeprefix("sha256:")
    for text in (*image.names, *image.digests, image.id, bare, bare[:12], f"sha256:{bare[:5]}"):
        assert store.find(text) == image
    for text in ("team/app:1", "00", "fffffffffff", "", "///"):
        assert store.find(text) is None
