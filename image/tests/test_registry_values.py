"""Challenges, credentials, mirrors and proxies: what they say, without a socket."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image.errors import RegistryUnavailable
from image.registry.auth import Challenge, TokenRequest, answer, challenges, token
from image.registry.credentials import Credentials
from image.registry.errors import words
from image.registry.mirrors import Endpoint, endpoints
from image.registry.proxy import proxy_for
from image.registry.session import retry_after
from image.settings import RegistrySettings

BEARER = Challenge("bearer", {"realm": "https://auth/token", "service": "s", "scope": "a:b:pull"})
BASIC = Challenge("basic", {"realm": "r"})


def test_challenges_are_read_however_they_are_written() -> None:
    one = 'Bearer realm="https://auth/token",service="s",scope="a:b:pull"'
    assert challenges([one]) == [BEARER]
    assert challenges(['Basic realm="r"', one]) == [BASIC, BEARER]
    assert challenges([f'Basic realm="r", {one}']) == [BASIC, BEARER]
    assert challenges(['Basic realm="a \\"b\\" c"']) == [Challenge("basic", {"realm": 'a "b" c'})]
    assert challenges(["Negotiate"]) == [Challenge("negotiate", {})]
    assert challenges([]) == []


@given(st.text())
def test_no_challenge_breaks_the_parser(text: str) -> None:
    challenges([text])


def test_anonymous_asks_for_a_token_too() -> None:
    asked = answer([BEARER], Credentials(), "a:b:pull")
    url = "https://auth/token?service=s&scope=a%3Ab%3Apull"
    assert asked == TokenRequest(url, None)


def test_a_password_goes_to_the_token_service_as_basic() -> None:
    asked = answer([BASIC, BEARER], Credentials("u", "p"), "x:y:pull")
    assert isinstance(asked, TokenRequest)
    assert asked.authorization == "Basic " + base64.b64encode(b"u:p").decode()
    assert "scope=a%3Ab%3Apull&scope=x%3Ay%3Apull&account=u" in asked.url


def test_an_identity_token_is_traded_in_by_post() -> None:
    asked = answer([BEARER], Credentials("u", identity_token="i"), "a:b:pull")
    assert isinstance(asked, TokenRequest)
    assert asked.form is not None
    assert asked.form["grant_type"] == "refresh_token"
    assert asked.form["refresh_token"] == "i"


def test_a_registry_token_is_sent_as_it_is() -> None:
    assert answer([BEARER], Credentials(registry_token="t"), "") == "Bearer t"


def test_basic_is_answered_only_with_a_password() -> None:
    assert answer([BASIC], Credentials(), "") is None
    expected = "Basic " + base64.b64encode(b"u:p").decode()
    assert answer([BASIC], Credentials("u", "p"), "") == expected


def test_tokens_come_under_two_names() -> None:
    assert token(b'{"token": "t"}', "x") == "Bearer t"
    assert token(b'{"access_token": "t", "token": null}', "x") == "Bearer t"
    for bad in (b"{}", b"[]", b"<html>", b'{"token": 1}', b'{"token": "a\\nb"}'):
        with pytest.raises(ValueError, match="x"):
            token(bad, "x")


def test_the_auth_field_holds_user_and_password() -> None:
    encoded = base64.b64encode(b"u:p:q\0").decode()
    assert Credentials(auth=encoded).basic == ("u", "p:q")
    assert Credentials(auth="%%%").basic == ("", "")
    assert not Credentials(auth="%%%")


@pytest.mark.parametrize(
    ("address", "host", "meant"),
    [
        ("", "any.io", True),
        ("quay.io", "quay.io", True),
        ("https://quay.io/v1/", "quay.io", True),
        ("quay.io:443", "quay.io", False),
        ("quay.io.evil.com", "quay.io", False),
        ("https://index.docker.io/v1/", "docker.io", True),
        ("docker.io", "quay.io", False),
    ],
)
def test_credentials_are_for_their_server_alone(address: str, host: str, meant: bool) -> None:
    assert bool(Credentials("u", "p", server_address=address).for_host(host)) == meant


def test_secrets_are_never_shown() -> None:
    text = repr(Credentials("u", "secret", "c2VjcmV0", "", "secret", "secret"))
    assert "secret" not in text
    assert "c2VjcmV0" not in text


def test_error_documents_become_words() -> None:
    document = b'{"errors": [{"code": "DENIED", "message": "no", "detail": "why"}, {"code": "X"}]}'
    assert words(document) == "DENIED: no (why); X"
    assert (
        words(b'{"details": "incorrect username or password"}') == "incorrect username or password"
    )
    assert words(b"plain\nmore") == "plain"
    assert words(b"<html>") == ""
    assert words(b'{"errors": 1}').startswith('{"errors"')
    assert words(b"") == ""


def test_retry_after_is_a_number_or_a_date() -> None:
    now = time.mktime(time.strptime("2026-11-22 10:00:00", "%Y-%m-%d %H:%M:%S")) - time.timezone
    assert retry_after("7", now) == 7
    assert retry_after("Sun, 22 Nov 2026 10:00:09 GMT", now) == 9
    assert retry_after("Sun, 22 Nov 2026 09:00:00 GMT", now) == 0
    assert retry_after("", now) == 0
    assert retry_after("soon", now) == 0


# --- mirrors --------------------------------------------------------------------------------------


def hosts(folder: Path, name: str, text: str) -> RegistrySettings:
    (folder / name).mkdir()
    (folder / name / "hosts.toml").write_text(text)
    return RegistrySettings(hosts_dir=str(folder))


def test_without_configuration_a_registry_is_its_only_endpoint() -> None:
    plain = RegistrySettings(hosts_dir="", insecure_hosts=("old.example:5000",))
    assert endpoints("quay.io", plain) == (Endpoint("https://quay.io/v2"),)
    assert endpoints("docker.io", plain) == (Endpoint("https://registry-1.docker.io/v2"),)
    assert endpoints("localhost:5000", plain) == (Endpoint("http://localhost:5000/v2"),)
    assert endpoints("[::1]:5000", plain) == (Endpoint("http://[::1]:5000/v2"),)
    assert endpoints("old.example:5000", plain) == (Endpoint("http://old.example:5000/v2"),)


def test_mirrors_come_first_and_the_registry_last(tmp_path: Path) -> None:
    text = """
    [host."https://mirror.example/prefix"]
    capabilities = ["pull"]
    skip_verify = true
    override_path = true
    ca = "ca.pem"
    client = [["cert.pem", "key.pem"]]
    [host."https://mirror.example/prefix".header]
    x-key = ["a", "b"]
    [host."http://second:5000"]
    """
    first, second, own = endpoints("docker.io", hosts(tmp_path, "docker.io", text))
    assert first.url == "https://mirror.example/prefix"
    assert (first.upstream, first.namespace, first.resolve, first.pull) == (
        False,
        "docker.io",
        False,
        True,
    )
    assert not first.tls.verify
    assert first.tls.ca == (str(tmp_path / "docker.io" / "ca.pem"),)
    assert first.tls.client[0][1].endswith("docker.io/key.pem")
    assert first.headers == (("x-key", "a"), ("x-key", "b"))
    assert second.url == "http://second:5000/v2"
    assert own == Endpoint("https://registry-1.docker.io/v2")


def test_a_server_line_replaces_the_registry(tmp_path: Path) -> None:
    settings = hosts(tmp_path, "_default", 'server = "http://local:5000"')
    (own,) = endpoints("quay.io", settings)
    assert (own.url, own.upstream) == ("http://local:5000/v2", True)


def test_a_directory_of_the_host_and_port_comes_before_the_default(tmp_path: Path) -> None:
    hosts(tmp_path, "_default", 'server = "http://wrong"')
    settings = hosts(tmp_path, "quay.io_8443_", 'server = "http://right"')
    assert endpoints("quay.io:8443", settings)[0].url == "http://right/v2"
    assert endpoints("quay.io", settings)[0].url == "http://wrong/v2"


@pytest.mark.parametrize(
    "text",
    [
        "server = 1",
        'server = "ftp://x"',
        "not toml",
        '[host."https://m"]\nskip_verify = "yes"',
        '[host."https://m"]\ncapabilities = ["fly"]',
        '[host."https://m"]\nclient = [["a", "b", "c"]]',
    ],
)
def test_a_wrong_hosts_file_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(RegistryUnavailable, match=r"quay.io/hosts.toml.*: mend the file"):
        endpoints("quay.io", hosts(tmp_path, "quay.io", text))


# --- proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "exceptions", "proxy"),
    [
        ("https://quay.io/v2", "", "http://proxy:3128"),
        ("http://quay.io/v2", "", ""),
        ("https://quay.io/v2", "quay.io", ""),
        ("https://cdn.quay.io/v2", ".quay.io", ""),
        ("https://xquay.io/v2", "quay.io", "http://proxy:3128"),
        ("https://10.1.2.3/v2", "10.0.0.0/8", ""),
        ("https://11.1.2.3/v2", "10.0.0.0/8", "http://proxy:3128"),
        ("https://quay.io:8443/v2", "quay.io:8443", ""),
        ("https://quay.io:8444/v2", "quay.io:8443", "http://proxy:3128"),
        ("https://[fd00::1]/v2", "fd00::/8", ""),
        ("https://quay.io/v2", "a, *", ""),
        ("https://127.0.0.1:5000/v2", "", ""),
    ],
)
def test_a_proxy_is_used_but_for_the_exceptions(
    monkeypatch: pytest.MonkeyPatch, url: str, exceptions: str, proxy: str
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert proxy_for(url) == proxy
