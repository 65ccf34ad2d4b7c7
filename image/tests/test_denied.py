"""Who may pull, who is told why not, and where secrets never go."""

from __future__ import annotations

import pytest

from image.errors import (
    RegistryDenied,
)
from image.store import Credentials, ImageStore
from image.tests.build import app
from image.tests.invariants import check
from image.tests.registry import FakeRegistry, Fault

pytestmark = pytest.mark.root


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize(
    "credentials",
    [
        Credentials("alice", "secret"),
        Credentials(auth="YWxpY2U6c2VjcmV0"),
        Credentials("alice", "secret", server_address="https://HOST/v2/"),
    ],
)
async def test_a_password_opens_the_registry(
    store: ImageStore, fake_registry: FakeRegistry, auth: str, credentials: Credentials
) -> None:
    fake_registry.auth = auth
    name = fake_registry.add(app(), "a", "1")
    address = credentials.server_address.replace("HOST", fake_registry.host)
    given = Credentials(credentials.username, credentials.password, credentials.auth, address)
    await store.pull(name, given)
    check(store)


async def test_tokens_open_a_registry(store: ImageStore, fake_registry: FakeRegistry) -> None:
    fake_registry.auth = "bearer"
    name = fake_registry.add(app(), "a", "1")
    await store.pull(name, Credentials(identity_token="identity"))
    await store.remove(name)
    await store.pull(name, Credentials(registry_token="token-alice"))
    await store.remove(name)
    fake_registry.public = True
    await store.pull(name)


async def test_one_token_serves_a_whole_pull(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "bearer"
    name = fake_registry.add(app(), "a", "1")
    await store.pull(name, Credentials("alice", "secret"))
    assert len(fake_registry.paths("/token")) == 1


@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize(
    ("credentials", "words"),
    [
        (Credentials("alice", "wrong"), "asked as alice: 401"),
        (Credentials(), "asked anonymously: 401 .*no credentials were given"),
        (Credentials("alice", "secret", server_address="quay.io"), "asked anonymously"),
        (Credentials("alice", "secret", server_address="127.0.0.1"), "asked anonymously"),
    ],
)
async def test_a_refusal_says_who_asked_whom(
    store: ImageStore,
    fake_registry: FakeRegistry,
    auth: str,
    credentials: Credentials,
    words: str,
) -> None:
    fake_registry.auth = auth
    name = fake_registry.add(app(), "a", "1")
    with pytest.raises(RegistryDenied, match=words) as caught:
        await store.pull(name, credentials)
    assert caught.value.unauthenticated
    assert fake_registry.host in str(caught.value)
    assert len(fake_registry.requests) < 8, "a 401 must not loop"
    check(store)


async def test_an_image_that_is_here_is_not_given_to_who_may_not_have_it(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "bearer"
    name = fake_registry.add(app(), "a", "1")
    await store.pull(name, Credentials("alice", "secret"))
    with pytest.raises(RegistryDenied):
        await store.pull(name)
    assert len(store.list()) == 1


async def test_a_redirect_to_another_host_carries_no_authorization(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "basic"
    with FakeRegistry() as storage:
        built = app()
        name = fake_registry.add(built, "a", "1")
        storage.add(built, "a", "1")
        fake_registry.faults.append(Fault("/blobs/", redirect=f"http://{storage.host}"))
        await store.pull(name, Credentials("alice", "secret"))
        assert len(storage.paths("/blobs/")) == 3
        assert not [seen for seen in storage.requests if "authorization" in seen.headers]
    sent = [seen for seen in fake_registry.requests if "/blobs/" in seen.path]
    assert all("authorization" in seen.headers for seen in sent)


async def test_a_redirect_within_the_registry_keeps_it(
    store: ImageStore, fake_registry: FakeRegistry
) -> None:
    fake_registry.auth = "basic"
    name = fake_registry.add(app(), "a", "1")
    fake_registry.faults.append(Fault("/blobs/", times=1, redirect=f"http://{fake_registry.host}"))
    await store.pull(name, Credentials("alice", "secret"))
