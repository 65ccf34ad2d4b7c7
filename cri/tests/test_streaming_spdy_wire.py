"""Remote command over SPDY, without sockets: both roles of our own SPDY talk to each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming.remotecommand import (
    Channel,
    Event,
    Input,
    InputEnded,
    Left,
    Opened,
    Resized,
    Wanted,
    WireError,
)
from cri.streaming.spdy import Connection
from cri.streaming.spdy_events import CANCEL, DataReceived, StreamReplied, StreamReset
from cri.streaming.spdy_wire import PROTOCOLS, SpdyWire

ALL = Wanted(terminal=False, stdin=True, stdout=True, stderr=True)
TERMINAL = Wanted(terminal=True, stdin=True, stdout=True, stderr=False)
NAMES = ("error", "stdin", "stdout", "stderr", "resize")


class Client:
    """kubectl's part."""

    def __init__(self, wanted: Wanted = ALL, protocol: str = "v4.channel.k8s.io") -> None:
        self.wire = SpdyWire(protocol, wanted)
        self.connection = Connection(client=True)
        self.ids: dict[str, int] = {}

    def open(self, *names: str, fin: bool = False) -> list[Event]:
        for name in names:
            self.ids[name] = self.connection.open({"streamType": name}, fin=fin)
        return self.said()

    def said(self, more: bytes = b"") -> list[Event]:
        """What the server makes of it."""
        return self.wire.receive(self.connection.take() + more)

    def send(self, name: str, data: bytes, *, fin: bool = False) -> list[Event]:
        return self.said(self.connection.data_header(self.ids[name], len(data), fin=fin) + data)

    def heard(self, more: bytes = b"") -> list[object]:
        return list(self.connection.receive(self.wire.take() + more))


@pytest.mark.parametrize(
    ("wanted", "protocol", "needed"),
    [
        (ALL, "v4.channel.k8s.io", {"error", "stdin", "stdout", "stderr"}),
        (TERMINAL, "v3.channel.k8s.io", {"error", "stdin", "stdout", "resize"}),
        (TERMINAL, "v2.channel.k8s.io", {"error", "stdin", "stdout"}),
        (TERMINAL, "", {"error", "stdin", "stdout"}),
    ],
)
def test_a_command_waits_for_its_streams_in_whatever_order(
    wanted: Wanted, protocol: str, needed: set[str]
) -> None:
    client = Client(wanted, protocol)
    names = sorted(needed)
    for name in names[:-1]:
        assert client.open(name) == []
    assert client.open(names[-1]) == [Opened()]
    replies = client.heard()
    assert [type(event) for event in replies] == [StreamReplied] * len(needed)


def test_input_is_told_as_it_comes_and_so_is_its_end() -> None:
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    assert client.send("stdin", b"one") == [Input(b"one")]
    assert client.send("stdin", b"two", fin=True) == [Input(b"two"), InputEnded()]
    assert client.send("error", b"nonsense") == []


def test_input_that_is_given_up_has_ended() -> None:
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.connection.reset(client.ids["stdin"], CANCEL)
    assert client.said() == [InputEnded()]


def test_input_may_have_ended_before_it_began() -> None:
    client = Client()
    client.open("error", "stdout", "stderr")
    assert client.open("stdin", fin=True) == [Opened(), InputEnded()]


def test_a_size_is_a_size_however_it_is_cut() -> None:
    client = Client(TERMINAL)
    client.open("error", "stdin", "stdout", "resize")
    assert client.send("resize", b'{"Width":80,"Hei') == []
    assert client.send("resize", b'ght":24}\n{"Width":1,"Height":2}\n') == [
        Resized(80, 24),
        Resized(1, 2),
    ]


def test_output_goes_to_its_stream_and_ends_there() -> None:
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.heard()
    payload = memoryview(b"out")
    header, body = client.wire.frame(Channel.STDERR, payload)
    assert body is payload
    stderr = client.ids["stderr"]
    assert client.heard(header + body) == [DataReceived(stderr, b"out", fin=False)]
    client.wire.end(Channel.STDERR)
    assert client.heard() == [DataReceived(stderr, b"", fin=True)]


def test_output_that_the_client_has_given_up_goes_nowhere() -> None:
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.connection.reset(client.ids["stdout"], CANCEL)
    assert client.said() == []
    assert client.wire.frame(Channel.STDOUT, memoryview(b"out")) == (b"", b"")
    client.wire.end(Channel.STDOUT)


def test_who_gives_up_the_error_stream_has_left() -> None:
    client = Client()
    client.open("error", "stdin", "stdout", "stderr")
    client.connection.reset(client.ids["error"], CANCEL)
    assert client.said() == [Left()]


def test_streams_that_nobody_needs_are_taken_and_ended_or_refused() -> None:
    client = Client(Wanted(terminal=False, stdin=False, stdout=True, stderr=False))
    assert client.open("stderr", "stdin", "resize", "nonsense") == []
    heard = client.heard()
    assert DataReceived(client.ids["stderr"], b"", fin=True) in heard
    refused = [event.stream_id for event in heard if isinstance(event, StreamReset)]
    assert refused == [client.ids["nonsense"]]
    assert client.open("error", "stdout") == [Opened()]
    assert client.send("stdin", b"x") == []
    second = client.connection.open({"streamType": "stdout"})
    client.said()
    assert StreamReset(second, CANCEL) in client.heard()


@given(
    st.sampled_from(PROTOCOLS),
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=40), st.booleans()), max_size=12),
    st.binary(max_size=30),
)
def test_whatever_a_client_says_is_an_error_or_means_something(
    protocol: str, acts: list[tuple[str, bytes, bool]], noise: bytes
) -> None:
    client = Client(TERMINAL, protocol)
    try:
        for name, data, fin in acts:
            if name not in client.ids:
                client.open(name)
            elif client.connection.can_send(client.ids[name]):
                client.send(name, data, fin=fin)
        client.wire.receive(noise)
    except WireError:
        pass
