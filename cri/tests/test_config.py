"""Configuration: what is good is a Config, what isn't is an error with file and line."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from cri.cli.config import default_text
from cri.cli.main import main
from cri.config import Config, ConfigError, load, override, parse
from cri.toml_lines import line_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_defaults_are_what_the_printed_default_configuration_says() -> None:
    uncommented = re.sub(r"^#(?=\w+ = )", "", default_text(), flags=re.MULTILINE)
    assert parse(uncommented) == Config()
    assert parse(default_text()) == Config()
    for section in (
        "network",
        "images",
        "cgroup",
        "containers",
        "streaming",
        "runtime.handlers.podwright",
    ):
        assert f"[{section}]" in uncommented


def test_every_key_of_the_default_configuration_has_a_meaning() -> None:
    def unexplained(values: object) -> list[str]:
        assert dataclasses.is_dataclass(values)
        own = [f.name for f in dataclasses.fields(values) if len(f.metadata["doc"]) < 10]
        inner = [getattr(values, f.name) for f in dataclasses.fields(values)]
        return own + [name for v in inner if dataclasses.is_dataclass(v) for name in unexplained(v)]

    assert unexplained(Config()) == []


def test_a_file_and_its_drop_ins_are_read_in_order_and_the_later_wins(tmp_path: Path) -> None:
    main_file = tmp_path / "podwright.toml"
    main_file.write_text('log_level = "error"\n[network]\nenabled = true\nmtu = 1400\n')
    drop_ins = tmp_path / "conf.d"
    drop_ins.mkdir()
    (drop_ins / "20-mtu.toml").write_text("[network]\nmtu = 9000\n")
    (drop_ins / "10-mtu.toml").write_text('[network]\nmtu = 1500\nsubnets = ["10.9.0.0/24"]\n')
    (drop_ins / "ignored.txt").write_text("nonsense")
    config = load(main_file)
    assert config.log_level == "error"
    assert config.network.enabled
    assert config.network.mtu == 9000
    assert config.network.subnets == ("10.9.0.0/24",)


def test_an_error_in_a_drop_in_names_the_drop_in(tmp_path: Path) -> None:
    (tmp_path / "podwright.toml").write_text("")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "x.toml").write_text('# a comment\nlog_level = "loud"\n')
    with pytest.raises(ConfigError, match=r"conf\.d/x\.toml:2: log_level = 'loud': must be one of"):
        load(tmp_path / "podwright.toml")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('images.insecure_hosts = ["http://x"]', 1, "'http://x' is no host[:port]"),
        ('rooot = "/x"', 1, "unknown key rooot: did you mean root?"),
        ("[network]\n\nmtuu = 1", 3, "unknown key network.mtuu: did you mean network.mtu?"),
        ("[network]\nxyzzy = 1", 2, "unknown key network.xyzzy: [network] knows enabled, bridge"),
        ("[runtime.handlers.runc]\npaht = '/x'", 2, "did you mean runtime.handlers.runc.path?"),
        ("[runtime.handlers.x]\ntype = 'vm'", 2, "must be one of podwright, oci, shim"),
        (
            "[runtime.handlers.x]\noptions = {a = 1.5}",
            2,
            "expected a table of strings, whole numbers and truth",
        ),
        ("[runtime.handlers.x]\npath = 'runc'", 2, "'runc': must be an absolute path"),
        ("[runtime.handlers.X]\ntype = 'oci'", 1, "'X' can't be a handler: lower-case letters"),
        ("[runtime.handlers]\nx = 1", 2, "is a table: write [runtime.handlers.x]"),
        ("[runtime]\nhandlers = 1", 2, "is a table: write [runtime.handlers]"),
        ("[runtime.handlers.x]\nhidden_mounts = ['a']", 2, "'a' is no absolute path of a mount"),
        ("[runtime.handlers.x.default_annotations]\na = 1", 1, "expected a table of strings"),
        ('\n\nroot = "relative"', 3, "root = 'relative': must be an absolute path"),
        ("network = 1", 1, "network: is a table: write [network]"),
        ("root = 1", 1, "root: expected a string, got 1"),
        ("[network]\nmtu = true", 2, "network.mtu: expected a whole number, got True"),
        ("[network]\nenabled = 1", 2, "network.enabled: expected true or false, got 1"),
        ("[network]\nsubnets = [1]", 2, "network.subnets: expected a list of strings, got [1]"),
        ("[network]\nmtu = 100", 2, "network.mtu = 100: must be 0 or from 1280 to 65535"),
        ('[network]\nsubnets = ["10.0.0.1/24"]', 2, "has host bits set"),
        ('network.subnets = ["10.0.0.0/24", "10.1.0.0/24"]', 1, "one IPv6 subnet, or one of each"),
        ("network.subnets = []", 1, "name one IPv4 subnet, one IPv6 subnet, or one of each"),
        ('network.subnets = ["10.0.0.0/31"]', 1, "10.0.0.0/31 is too small"),
        ('[network]\nbridge = "much-too-long-name"', 2, "is no interface name"),
        ('address = "tcp://127.0.0.1:1"', 1, "must be unix:///path/to/socket or unix-abstract:"),
        ('[cgroup]\ndriver = "cgroup"', 2, "must be one of auto, cgroupfs, systemd"),
        ('[cgroup]\nparent = "/"', 2, "must be an absolute cgroup path"),
        ('root = "/a\\u0000b"', 1, "must not contain control characters"),
        ("[network]\nmtu = \n", 2, "not TOML: Invalid value"),
        ("[network\n", 1, "not TOML: "),
        ('a = """\n\n', 2, "not TOML: "),
        ('[images]\ninsecure_hosts = [\n  "a",\n  2,\n]', 2, "expected a list of strings"),
        ('[images]\npinned = ["""\nmtuu = 1\n"""]\n[network]\nmtuu = 1', 6, "unknown key"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_the_remedy(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text, "/etc/p.toml")
    assert str(raised.value).startswith(f"/etc/p.toml:{line}: ")
    assert says in str(raised.value)


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "9" * 5000])
def test_what_no_parser_can_hold_is_no_configuration(text: str) -> None:
    with pytest.raises(ConfigError, match=r"/etc/p\.toml: not TOML: "):
        parse(text, "/etc/p.toml")


def test_root_and_state_are_two_directories(tmp_path: Path) -> None:
    (tmp_path / "podwright.toml").write_text('root = "/a"\nstate = "/a"\n')
    with pytest.raises(ConfigError, match=r"toml:2: state = '/a': must be another directory"):
        load(tmp_path / "podwright.toml")


def test_the_line_of_a_key_is_found_after_blank_lines_and_comments() -> None:
    text = "a = 1\n\n# b = 0\n  \nb = [\n 1,\n]\n"
    assert line_of(text, ("a",)) == 1
    assert line_of(text, ("b",)) == 5
    assert line_of(text, ("c",)) == 0


def test_a_file_that_is_not_utf8_is_told_by_line(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_bytes(b'root = "/a"\n# \xff\n')
    with pytest.raises(ConfigError, match=r"p\.toml:2: not UTF-8"):
        load(file)


def test_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: No such file or directory"):
        load(tmp_path / "none.toml")


def test_the_command_line_overrides_and_is_checked_too() -> None:
    config = override(Config(), root="/r", state=None)
    assert (config.root, config.state) == ("/r", "/run/podwright")
    with pytest.raises(ConfigError, match=r"--log-level: log_level = 'x': must be one of"):
        override(Config(), log_level="x")


def test_the_socket_is_in_the_state_directory_unless_said_otherwise() -> None:
    assert parse('state = "/s"').endpoint == "unix:///s/podwright.sock"
    assert parse('address = "unix-abstract:p"').endpoint == "unix-abstract:p"


def test_the_default_handler_and_the_embedded_one_are_known() -> None:
    assert list(Config().handlers) == ["", "podwright"]


def test_config_check_says_ok_or_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text("")
    assert CliRunner().invoke(main, ["config", "check", str(file)]).output == "ok\n"
    file.write_text("x = 1")
    wrong = CliRunner().invoke(main, ["config", "check", str(file)])
    assert wrong.exit_code == 1
    assert f"{file}:1: unknown key x" in wrong.output


def test_config_default_prints_a_file_that_passes_the_check(tmp_path: Path) -> None:
    file = tmp_path / "p.toml"
    file.write_text(CliRunner().invoke(main, ["config", "default"]).output)
    assert CliRunner().invoke(main, ["config", "check", str(file)]).output == "ok\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            'address = "0.0.0.0:10010"',
            r"toml:2: streaming.address = '0.0.0.0:10010': can be reached",
        ),
        ('address = "10010"', r"toml:2: streaming.address = '10010': must be address:port"),
        ('tls_cert_file = "/c"', r"toml:1: streaming.tls_key_file is missing"),
        ('\ntls_key_file = "/k"', r"toml:1: streaming.tls_cert_file is missing"),
        ('\nclient_ca_file = "/k"', r"toml:3: streaming.client_ca_file is of use only with"),
        ("idle_timeout = 0", r"toml:2: streaming.idle_timeout = 0: must be from 1"),
    ],
)
def test_streams_that_could_be_overheard_are_no_configuration(
    tmp_path: Path, text: str, problem: str
) -> None:
    file = tmp_path / "podwright.toml"
    file.write_text(f"[streaming]\n{text}\n")
    with pytest.raises(ConfigError, match=problem):
        load(file)


def test_a_drop_in_may_bring_the_certificate_that_an_address_needs(tmp_path: Path) -> None:
    (tmp_path / "podwright.toml").write_text('[streaming]\naddress = "[::]:10010"\n')
    (tmp_path / "conf.d").mkdir()
    drop_in = tmp_path / "conf.d" / "tls.toml"
    drop_in.write_text('[streaming]\ntls_cert_file = "/c"\ntls_key_file = "/k"\n')
    assert load(tmp_path / "podwright.toml").streaming.tls_cert_file == "/c"
