"""What claims to be a plugin and does not behave like one."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

import pytest

from cri.errors import PluginRefused, PluginsDisagree
from cri.nri.api import nri_pb2 as nri
from cri.nri.kit import Plugin, Refuse
from cri.nri.mux import PLUGIN_SERVICE, RUNTIME_SERVICE, framed
from cri.plugin_config import NriConfig
from cri.tests.nri_stage import POD, Scribe, Talk, Wishing, container, stage, variable


@pytest.mark.parametrize(
    ("name", "index", "problem"),
    [
        ("", "10", "plugin_name: ''"),
        ("a b", "10", "plugin_name: 'a b'"),
        ("a\nb", "10", "plugin_name"),
        ("x" * 300, "10", "plugin_name"),
        ("good", "1", "plugin_idx: '1'"),
        ("good", "ab", "plugin_idx: 'ab'"),
        ("good", "٣٤", "plugin_idx"),
    ],
)
async def test_a_name_that_can_not_be_is_refused(
    name: str, index: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with stage() as on:
        plugin = Scribe()
        plugin.name, plugin.index = name, index
        assert not await on.connect(plugin)
        assert not on.relay.active
    assert problem in caplog.text


async def send(to: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(to, data)


async def nothing(to: socket.socket) -> None:
    await asyncio.sleep(60)


async def leaves(to: socket.socket) -> None:
    to.shutdown(socket.SHUT_RDWR)


async def garbage(to: socket.socket) -> None:
    await send(to, os.urandom(1 << 16))


async def long_piece(to: socket.socket) -> None:
    await send(to, b"\0\0\0\2\x7f\xff\xff\xff" + bytes(1 << 16))


async def long_frame(to: socket.socket) -> None:
    for piece in framed(RUNTIME_SERVICE, b"\x7f\xff\xff\xff\0\0\0\1\1\0"):
        await send(to, piece)


async def answers_nobody_asked_for(to: socket.socket) -> None:
    for piece in framed(PLUGIN_SERVICE, b"\0\0\0\0\0\0\0\1\1\0"):  # a request where answers go
        await send(to, piece)


async def even_streams(to: socket.socket) -> None:
    for piece in framed(RUNTIME_SERVICE, b"\0\0\0\0\0\0\0\2\1\0"):
        await send(to, piece)


@pytest.mark.parametrize(
    ("talk", "problem"),
    [
        (nothing, "did not register within 1 s"),
        (leaves, "closed the connection"),
        (garbage, "does not keep to the protocol"),
        (long_piece, "a piece of 2147483647 bytes"),
        (long_frame, "a frame of 2147483647 bytes"),
        (answers_nobody_asked_for, "a frame of kind 1"),
        (even_streams, "stream 2 after 0"),
    ],
)
async def test_who_does_not_speak_nri_never_joins(
    talk: Talk,
    problem: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with stage() as on:
        assert not await on.stranger(talk)
        assert not on.relay.active
        assert on.relay.plugins._connected == {}
    assert problem in caplog.text


async def test_a_plugin_that_subscribes_to_nonsense_never_joins(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cri.nri.kit._events", lambda _: 1 << 20)
    async with stage() as on:
        assert not await on.connect(Scribe())
    assert "subscribes to events 0x100000" in caplog.text


async def test_one_that_answers_nonsense_in_the_middle_is_dropped() -> None:
    class Broken(Plugin):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            assert self._trunk is not None
            self._trunk._writer.write(b"\xff" * 100)
            await asyncio.sleep(60)

    async with stage() as on:
        assert await on.connect(Broken("broken", "10"))
        await on.relay.run_pod(POD)
        assert not on.relay.active


class Answering(Plugin):
    """Sends bytes of its own instead of an answer to RunPodSandbox, and nothing else."""

    def __init__(self, data: bytes) -> None:
        super().__init__("answering", "10")
        self.data = data

    async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
        assert self._trunk is not None
        for piece in framed(PLUGIN_SERVICE, self.data):
            self._trunk._writer.write(piece)
        await asyncio.sleep(60)


def response(stream: int, payload: bytes = b"\x12\0") -> bytes:
    """A frame of ttrpc: length, stream, kind (2: an answer), flags; by default an empty payload."""
    return struct.pack(">IIBB", len(payload), stream, 2, 0) + payload


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (response(1)[:5], "did not answer RunPodSandbox within 1 s"),
        (response(1, bytes(100))[:50], "did not answer RunPodSandbox within 1 s"),
        (response(99), "did not answer RunPodSandbox within 1 s"),
        (response(2), "did not answer RunPodSandbox within 1 s"),
        (response(1) * 2, "did not answer RunPodSandbox within 1 s"),
        (response(5, b"\xff" * 9), "does not keep to the protocol"),
        (response(5, b"\x12\x02\xff\xff"), "RunPodSandbox was answered with nonsense"),
        (b"", "did not answer RunPodSandbox within 1 s"),
    ],
    ids=[
        "half a header",
        "half a frame",
        "another's",
        "even",
        "an old one's",
        "no answer",
        "no message",
        "nothing",
    ],
)
async def test_an_answer_that_is_none_costs_the_plugin_its_place_and_nobody_else_anything(
    data: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with stage() as on:
        after = Scribe("after", "20")
        assert await on.connect(Answering(data))
        assert await on.connect(after)
        await on.relay.run_pod(POD)
        assert after.heard == ["run s1"]
        assert [str(peer) for peer in on.relay.plugins.now] == ["20-after"]
    assert problem in caplog.text


async def test_a_plugin_that_floods_is_one_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    class Flood(Scribe):
        async def synchronize(
            self, pods: list[nri.PodSandbox], containers: list[nri.Container]
        ) -> list[nri.ContainerUpdate]:
            self.flooding = asyncio.create_task(self.flood())
            return []

        async def flood(self) -> None:
            wish = [nri.ContainerUpdate(container_id="nobody") for _ in range(100)]
            await asyncio.gather(*(self.update_containers(wish) for _ in range(200)))

    async with stage(NriConfig(registration_timeout=30, request_timeout=30)) as on:
        flood, after = Flood("flood"), Scribe("after", "20")
        assert await on.connect(flood)
        assert await on.connect(after)
        await on.relay.run_pod(POD)
        assert (flood.heard, after.heard) == (["run s1"], ["run s1"])
        await flood.flooding
        assert len(caplog.records) < 300  # a line for each request, none for each wish
        assert "100 of its 100 updates fail; the first, of container nobody: " in caplog.text


async def test_twenty_plugins_are_asked_in_their_order_and_each_sees_the_others() -> None:
    class Adding(Plugin):
        async def create_container(
            self, pod: nri.PodSandbox, container: nri.Container
        ) -> nri.CreateContainerResponse:
            assert list(container.env) == [f"P{number}=1" for number in range(int(self.index))]
            return variable(f"P{int(self.index)}")

    async with stage() as on:
        for number in reversed(range(20)):
            assert await on.connect(Adding("adding", f"{number:02}"))
        made = await on.relay.create_container(POD, container("c1"))
        assert [pair.key for pair in made.merged.env] == [f"P{number}" for number in range(20)]
        assert made.owners.of("c1", nri.Env, "P7") == "07-adding"


async def test_more_plugins_than_there_can_be_are_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cri.nri.plugins.MOST_PLUGINS", 2)
    async with stage() as on:
        assert await on.connect(Scribe("a"))
        assert await on.connect(Scribe("b"))
        assert not await on.connect(Scribe("c"))


async def test_what_a_plugin_says_is_one_line_that_fits_in_an_answer() -> None:
    class Wordy(Plugin):
        async def run_pod_sandbox(self, pod: nri.PodSandbox) -> None:
            raise Refuse("first\nERROR forged\x1b[31m" + "x" * 100_000)

    async with stage() as on:
        assert await on.connect(Wordy("wordy", "10"))
        with pytest.raises(PluginRefused) as caught:
            await on.relay.run_pod(POD)
    text = str(caught.value)
    assert "refuses RunPodSandbox: first ERROR forged?[31mxxx" in text
    assert len(text) < 1200
    assert text.endswith("x …")


async def test_two_plugins_of_one_name_are_told_apart() -> None:
    async with stage() as on:
        assert await on.connect(Wishing("a", "10", variable("X")))
        assert await on.connect(Wishing("a", "10", variable("X")))
        with pytest.raises(PluginsDisagree, match=r"10-a and 10-a\[1\] both tried to set Env X"):
            await on.relay.create_container(POD, container("c1"))
