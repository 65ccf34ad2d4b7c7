"""Registries with certificates: which are believed, and what is said of the others."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.errors import RegistryUnavailable
from image.tests.build import app
from image.tests.conftest import OpenStore
from image.tests.invariants import check
from image.tests.registry import FakeRegistry
from image.tests.test_mirrors import mirrored, quick

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, signed by itself, and its key in one file."""
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    names = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    out = ["-keyout", str(path), "-out", f"{path}.crt"]
    subprocess.run(
        ["openssl", "req", "-x509", *kind, *names, *out], check=True, capture_output=True
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


@pytest.fixture
def tls_registry(certificate: Path) -> Iterator[FakeRegistry]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with FakeRegistry(context) as registry:
        yield registry


async def test_a_certificate_of_nobody_is_refused_with_the_remedy(
    open_store: OpenStore, tls_registry: FakeRegistry, tmp_path: Path
) -> None:
    mirrored(tmp_path, tls_registry.host.replace(":", "_") + "_", server(tls_registry, ""))
    store = await open_store(registries=quick(tmp_path))
    with pytest.raises(RegistryUnavailable, match=r"not trusted: self-signed.*`ca`.*hosts\.toml"):
        await store.pull(tls_registry.add(app(), "a", "1"))
    assert tls_registry.requests == []
    check(store)


@pytest.mark.parametrize("line", ['ca = "CA"', "skip_verify = true"])
async def test_a_certificate_is_believed_when_configured(
    open_store: OpenStore, tls_registry: FakeRegistry, certificate: Path, tmp_path: Path, line: str
) -> None:
    text = server(tls_registry, line.replace("CA", f"{certificate}.crt"))
    mirrored(tmp_path, "_default", text)
    store = await open_store(registries=quick(tmp_path))
    await store.pull(tls_registry.add(app(), "a", "1"))
    check(store)


async def test_a_missing_ca_file_is_named(
    open_store: OpenStore, tls_registry: FakeRegistry, tmp_path: Path
) -> None:
    mirrored(tmp_path, "_default", server(tls_registry, 'ca = "nowhere.pem"'))
    store = await open_store(registries=quick(tmp_path))
    with pytest.raises(RegistryUnavailable, match=r"_default/nowhere\.pem: no usable PEM file"):
        await store.pull(tls_registry.add(app(), "a", "1"))


async def test_http_is_not_spoken_to_a_registry_that_wants_tls(
    open_store: OpenStore, tls_registry: FakeRegistry
) -> None:
    store = await open_store()
    with pytest.raises(RegistryUnavailable, match=f"http://{tls_registry.host}"):
        await store.pull(tls_registry.add(app(), "a", "1"))


def server(registry: FakeRegistry, line: str) -> str:
    return f'server = "https://{registry.host}"\n{line}\n'
