"""Exec and Attach, the RPCs: who gets a URL, and who is told why not."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from cri.api import api_pb2 as api
from cri.errors import ContainerNotFound, InvalidRequest, StreamsExhausted, WrongState, status_of
from cri.rpc.stream_urls import attach, exec_
from cri.store.container import ContainerState
from cri.streaming.tokens import MOST
from cri.tests.parts import parts
from cri.tests.records import container

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from cri.rpc.services import Services


@pytest.fixture
async def services(tmp_path: Path) -> AsyncIterator[Services]:
    async with parts(tmp_path) as made:
        await made.streams.start()
        try:
            yield made
        finally:
            await made.streams.close()


def running(services: Services, **config: bool) -> str:
    """The id of a container in the store that says that it runs."""
    made = container("main", "s1")
    for name, value in config.items():
        setattr(made.config, name, value)
    services.store.containers.add(made)
    services.store.containers.update(made.id, lambda status: status.to(ContainerState.RUNNING))
    return made.id


async def test_a_url_names_what_it_is_for_and_is_never_the_same(services: Services) -> None:
    container_id = running(services)
    request = api.ExecRequest(container_id=container_id[:12], cmd=["true"], stdout=True)
    urls = [(await exec_(services, request)).url for _ in range(2)]
    asked = api.AttachRequest(container_id=container_id, stdout=True)
    urls.append((await attach(services, asked)).url)
    assert len(set(urls)) == 3
    for url, kind in zip(urls, ("exec", "exec", "attach"), strict=True):
        split = urlsplit(url)
        assert (split.scheme, split.hostname) == ("http", "127.0.0.1")
        assert split.path.startswith(f"/{kind}/")
        assert len(split.path) == len(f"/{kind}/") + 8


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"container_id": ""}, "container_id"),
        ({"tty": True, "stderr": True}, "stderr"),
        ({"stdout": False}, "stdin, stdout, stderr"),
    ],
)
async def test_what_can_not_be_is_named_by_its_field(
    services: Services, fields: dict[str, object], field: str
) -> None:
    asked = {"container_id": running(services), "stdout": True, **fields}
    with pytest.raises(InvalidRequest) as raised:
        await exec_(services, api.ExecRequest(cmd=["true"], **asked))  # type: ignore[arg-type]
    assert raised.value.field == field
    with pytest.raises(InvalidRequest) as raised:
        await attach(services, api.AttachRequest(**asked))  # type: ignore[arg-type]
    assert raised.value.field == field


@pytest.mark.parametrize("cmd", [[], [""]])
async def test_no_command_is_named_too(services: Services, cmd: list[str]) -> None:
    request = api.ExecRequest(container_id=running(services), cmd=cmd, stdout=True)
    with pytest.raises(InvalidRequest, match="cmd: empty"):
        await exec_(services, request)


async def test_only_what_runs_has_streams(services: Services) -> None:
    made = container("main", "s1")
    services.store.containers.add(made)
    for container_id, error in ((made.id, WrongState), ("f" * 64, ContainerNotFound)):
        with pytest.raises(error):
            await attach(services, api.AttachRequest(container_id=container_id, stdout=True))
        request = api.ExecRequest(container_id=container_id, cmd=["true"], stdout=True)
        with pytest.raises(error):
            await exec_(services, request)


@pytest.mark.parametrize(
    ("config", "asked", "said"),
    [
        ({"tty": True}, {}, "has a terminal"),
        ({}, {"tty": True}, "has no terminal"),
        ({"tty": True}, {"tty": True, "stdin": True}, "was made without"),
    ],
)
async def test_an_attachment_is_as_its_container(
    services: Services, config: dict[str, bool], asked: dict[str, bool], said: str
) -> None:
    request = api.AttachRequest(container_id=running(services, **config), stdout=True, **asked)
    with pytest.raises(InvalidRequest, match=said):
        await attach(services, request)


async def test_urls_that_nobody_uses_run_out(services: Services) -> None:
    request = api.ExecRequest(container_id=running(services), cmd=["true"], stdout=True)
    for _ in range(MOST):
        await exec_(services, request)
    with pytest.raises(StreamsExhausted, match="try again") as raised:
        await exec_(services, request)
    assert status_of(raised.value).code.name == "RESOURCE_EXHAUSTED"
