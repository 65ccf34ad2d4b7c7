"""The HTTP face of streams: tokens, requests, refusals, limits, certificates."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.endpoint import Endpoint
from cri.errors import StreamsExhausted
from cri.streaming import server
from cri.streaming.http import MOST_HEAD, Refused, RequestReader
from cri.streaming.server import StreamServer, StreamSettings
from cri.streaming.tls import CantServe, Certificate, TlsFiles
from cri.streaming.tokens import LIFETIME, MOST, Tokens
from cri.streaming.upgrade import Offer, Transport, upgrade
from cri.tests.parts import eventually
from cri.tests.sessions import streaming
from e2e.spdy_client import Command, SpdyClient, read_body, read_head

OFFER = Offer(("v4", "v1"), ("v4", "v1"))
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3
WEBSOCKET = f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"


def head(line: str, headers: str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n") -> bytes:
    return f"{line} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode()


def ask(url: str, data: bytes) -> tuple[int, str]:
    """Sends bytes to the server of a URL; status and body of what it answers."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(data)
        status, headers, rest = read_head(connection)
        return status, "" if status == 101 else read_body(connection, headers, rest)


# tokens


def test_a_token_is_good_once() -> None:
    tokens: Tokens[str] = Tokens()
    token = tokens.mint("x")
    assert len(token) == 8
    assert (tokens.take(token), tokens.take(token), tokens.take("unknown!")) == ("x", None, None)


def test_a_token_is_good_for_a_minute() -> None:
    now = 0.0
    tokens: Tokens[str] = Tokens(lambda: now)
    early, late = tokens.mint("early"), tokens.mint("late")
    now = LIFETIME - 0.1
    assert tokens.take(early) == "early"
    now = LIFETIME
    assert tokens.take(late) is None
    assert len(tokens) == 0


def test_a_thousand_tokens_may_wait_and_no_more() -> None:
    now = 0.0
    tokens: Tokens[int] = Tokens(lambda: now)
    minted = {tokens.mint(number) for number in range(MOST)}
    assert len(minted) == MOST
    with pytest.raises(StreamsExhausted, match="1000 streams were asked for and not opened"):
        tokens.mint(0)
    now = LIFETIME
    tokens.mint(0)


# requests


def test_a_request_may_be_cut_anywhere_and_what_follows_it_is_kept() -> None:
    data = head("POST /exec/abc?x=y") + b"\x80\x03rest"
    for cut in range(1, len(data)):
        reader = RequestReader()
        request = reader.feed(data[:cut]) or reader.feed(data[cut:])
        assert request is not None
        assert (request.method, request.path) == ("POST", "/exec/abc")
        assert request.has("upgrade", "spdy/3.1")
        assert b"\x80\x03rest".startswith(reader.rest)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MOST_HEAD + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"x" * MOST_HEAD, 431),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 413),
    ],
)
def test_a_request_that_is_none_gets_its_status(data: bytes, status: int) -> None:
    reader = RequestReader()
    with pytest.raises(Refused) as raised:
        reader.feed(data)
    assert raised.value.status == status
    assert reader.refuse(raised.value).startswith(b"HTTP/1.1 %d " % status)


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_garbage_is_no_request(chunks: list[bytes]) -> None:
    reader = RequestReader()
    with contextlib.suppress(Refused):
        for chunk in chunks:
            request = reader.feed(chunk)
            assert request is None or request.path


@given(st.text(st.characters(max_codepoint=255), max_size=60), st.sampled_from(["", "GET / "]))
def test_strange_headers_are_refused_or_understood(text: str, line: str) -> None:
    reader = RequestReader()
    data = f"{line}{text} HTTP/1.1\r\nHost: x\r\nUpgrade: {text}\r\n{text}: x\r\n\r\n"
    with contextlib.suppress(Refused):
        request = reader.feed(data.encode("latin-1"))
        if request is not None:
            upgrade(request, OFFER)


# upgrades


def upgraded(headers: str, line: str = "GET /") -> tuple[Transport, str, dict[str, str]]:
    request = RequestReader().feed(head(line, headers))
    assert request is not None
    found = upgrade(request, OFFER)
    return found.transport, found.protocol, dict(found.headers)


def test_the_first_protocol_of_the_clients_that_we_serve_is_taken() -> None:
    spdy = "Connection: keep-alive, Upgrade\r\nUpgrade: spdy/3.1\r\n"
    names = "X-Stream-Protocol-Version: v9\r\nX-Stream-Protocol-Version: v1, v4\r\n"
    assert upgraded(spdy + names)[:2] == (Transport.SPDY, "v1")
    assert upgraded(spdy)[:2] == (Transport.SPDY, "")
    web = "Connection: Upgrade\r\n" + WEBSOCKET
    transport, protocol, headers = upgraded(web + "Sec-WebSocket-Protocol: v9, v4\r\n")
    assert (transport, protocol) == (Transport.WEBSOCKET, "v4")
    assert headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
    assert upgraded(web)[1] == ""


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("", 400),
        ("Upgrade: SPDY/3.1\r\n", 400),
        ("Connection: Upgrade\r\nUpgrade: h2c\r\n", 400),
        ("Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v9\r\n", 403),
        (f"Connection: Upgrade\r\n{WEBSOCKET}Sec-WebSocket-Protocol: v9\r\n", 403),
        (f"Connection: Upgrade\r\n{WEBSOCKET.replace('13', '8')}", 400),
        (f"Connection: Upgrade\r\n{WEBSOCKET.replace(KEY, 'x')}", 400),
    ],
)
def test_a_wrong_upgrade_gets_its_status(headers: str, status: int) -> None:
    with pytest.raises(Refused) as raised:
        upgraded(headers)
    assert raised.value.status == status


def test_a_websocket_does_not_begin_with_post() -> None:
    with pytest.raises(Refused, match="GET"):
        upgraded("Connection: Upgrade\r\n" + WEBSOCKET, "POST /")


# the server


async def test_unknown_used_and_foreign_tokens_are_not_found() -> None:
    async with streaming() as streams:
        url = streams.exec("true")
        path = urlsplit(url).path
        for line in (
            f"GET /attach{path[5:]}",
            f"GET {path}",
            "GET /exec/unknown",
            "GET /",
            "GET x",
        ):
            status, text = await asyncio.to_thread(ask, url, head(line))
            assert (status, "one use" in text) == (404, True)
        wrong = await asyncio.to_thread(ask, url, head("DELETE /exec/x"))
        assert wrong[0] == 405
        garbage = await asyncio.to_thread(ask, url, b"\0\r\n\r\n")
        assert garbage[0] == 400
        await eventually(lambda: not streams.server._peers)


async def test_a_request_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.2)
    async with streaming() as streams:
        status, _ = await asyncio.to_thread(ask, streams.exec("true"), b"GET /exec/")
        assert status == 408


async def test_too_many_silent_connections_push_out_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MOST_WAITING", 3)
    async with streaming() as streams:
        url = streams.exec("echo", "hi", stdin=False)
        address = urlsplit(url).hostname, urlsplit(url).port
        silent = [await asyncio.open_connection(*address) for _ in range(5)]
        # those who know what they want are served all the same
        result = await asyncio.to_thread(played, url)
        assert result == b"hi\n"
        assert await silent[0][0].read() == b""
        assert await silent[1][0].read() == b""
        for _, writer in silent:
            writer.close()


async def test_there_is_an_end_to_the_number_of_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 1)
    async with streaming() as streams:
        url = streams.exec("sh", "-c", "echo here; sleep 100")
        client = await asyncio.to_thread(SpdyClient, url, "v4.channel.k8s.io")
        with client, pytest.raises((AssertionError, ConnectionError)):
            await asyncio.to_thread(ask, url, head("GET /"))
        await eventually(lambda: not streams.server._peers)


def played(url: str, context: ssl.SSLContext | None = None) -> bytes:
    """What a command says to a client."""
    with SpdyClient(url, "v4.channel.k8s.io", context=context) as client:
        return Command(client, ("stdout", "stderr")).result().stdout


@pytest.mark.parametrize("address", ["[::1]:0", "[::]:0", "0.0.0.0:0", "localhost:0"])
async def test_streams_are_served_at_any_address(address: str) -> None:
    async with streaming(address) as streams:
        url = streams.exec("echo", "hi", stdin=False)
        assert urlsplit(url).hostname in ("::1", "127.0.0.1")
        assert await asyncio.to_thread(played, url) == b"hi\n"


async def test_a_taken_port_is_told_with_the_remedy() -> None:
    async with streaming() as streams:
        port = streams.server._port
        other = StreamServer(StreamSettings(Endpoint.parse(f"127.0.0.1:{port}")))
        with pytest.raises(CantServe, match=rf"port {port}.*set streaming.address"):
            await other.start()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1",
        "::1:80",
        "[127.0.0.1]:1",
        "x:1",
        "127.0.0.1:x",
        "127.0.0.1:70000",
        "127.0.0.1:-1",
        "127.0.0.1:²",
    ],
)
def test_an_address_that_is_none_is_refused_with_the_remedy(text: str) -> None:
    with pytest.raises(ValueError, match=r"127\.0\.0\.1:0|\[::1\]:0"):
        Endpoint.parse(text)


# certificates


def issue(directory: Path, name: str) -> TlsFiles:
    """A certificate for localhost that vouches for itself."""
    files = TlsFiles(directory / "cert.pem", directory / "key.pem")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    words = ("openssl", "req", "-x509", "-days", "2", *key)
    names = ("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost")
    paths = ("-keyout", os.fspath(files.key), "-out", os.fspath(files.certificate))
    subprocess.run([*words, *names, *paths], check=True, capture_output=True)
    return files


def trusting(files: TlsFiles) -> ssl.SSLContext:
    return ssl.create_default_context(cadata=files.certificate.read_text())


async def test_streams_travel_over_tls(tmp_path: Path) -> None:
    files = issue(tmp_path, "first")
    async with streaming(tls=files) as streams:
        url = streams.exec("head", "-c", "3000000", "/dev/zero", stdin=False)
        assert url.startswith("https://127.0.0.1:")
        assert len(await asyncio.to_thread(played, url, trusting(files))) == 3_000_000


async def test_clients_without_a_certificate_are_turned_away_where_one_is_wanted(
    tmp_path: Path,
) -> None:
    files = issue(tmp_path, "both")
    asked = TlsFiles(files.certificate, files.key, client_ca=files.certificate)
    async with streaming(tls=asked) as streams:
        url = streams.exec("echo", "hi", stdin=False)
        with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
            await asyncio.to_thread(played, url, trusting(files))
        known = trusting(files)
        known.load_cert_chain(files.certificate, files.key)
        url = streams.exec("echo", "hi", stdin=False)
        assert await asyncio.to_thread(played, url, known) == b"hi\n"


async def test_a_new_certificate_is_used_when_both_its_files_are_there(tmp_path: Path) -> None:
    files = issue(tmp_path, "first")
    certificate = Certificate(files)
    await certificate.load()
    assert not await certificate.look()
    (tmp_path / "new").mkdir()
    new = issue(tmp_path / "new", "second")
    new.certificate.replace(files.certificate)
    assert not await certificate.look(), "the key is still the old one"
    new.key.replace(files.key)
    assert await certificate.look()
    assert not await certificate.look()


@pytest.mark.parametrize("content", [b"", b"not PEM"])
async def test_a_certificate_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    files = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(CantServe, match=r"cert\.pem.*No such file"):
        await Certificate(files).load()
    for path in (files.certificate, files.key):
        path.write_bytes(content)
    with pytest.raises(CantServe, match=r"cert\.pem"):
        await Certificate(files).load()
