"""Attachment records on disk."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from network.journal import Attachment, Journal, Phase, _decode, _encode
from network.result import PortMapping

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PORTS = st.builds(PortMapping, st.integers(), st.integers(), TEXTS, TEXTS)
RECORDS = st.builds(
    Attachment,
    sandbox_id=TEXTS,
    phase=st.sampled_from(Phase),
    bridge=TEXTS,
    host_interface=TEXTS,
    interface=TEXTS,
    mac=TEXTS,
    ips=st.lists(TEXTS, max_size=2).map(tuple),
    gateways=st.lists(TEXTS, max_size=2).map(tuple),
    ports=st.lists(PORTS, max_size=2).map(tuple),
    name=TEXTS,
    namespace=TEXTS,
    uid=TEXTS,
    netns_path=TEXTS,
)
RECORD = Attachment(
    sandbox_id="abc",
    phase=Phase.ADDED,
    bridge="pw0",
    host_interface="pwabc",
    interface="eth0",
    mac="0a:58:00:00:00:01",
    ips=("10.0.0.2",),
    gateways=("10.0.0.1",),
    ports=(PortMapping(1, 2, "udp", "::"),),
    name="web",
    namespace="default",
    uid="u",
    netns_path="/run/netns/x",
)


def journal(directory: Path) -> Journal:
    made = Journal(directory)
    made.load()
    return made


@given(RECORDS)
def test_records_survive_the_disk(record: Attachment) -> None:
    assert _decode(_encode(record)) == record


def test_another_process_finds_what_was_put_and_not_what_was_removed(tmp_path: Path) -> None:
    first = journal(tmp_path)
    first.put(RECORD)
    assert list(journal(tmp_path)) == [RECORD]
    assert journal(tmp_path).get("abc") == RECORD
    first.remove("abc")
    first.remove("abc")
    assert journal(tmp_path).ids() == frozenset()
    assert list(tmp_path.iterdir()) == []


def test_a_record_of_a_newer_version_is_understood(tmp_path: Path) -> None:
    fields = json.loads(_encode(RECORD)) | {"bandwidth": {"rate": 1}}
    (tmp_path / "abc.json").write_text(json.dumps(fields))
    assert journal(tmp_path).get("abc") == RECORD


def test_what_can_not_be_read_is_put_aside_and_the_rest_is_read(tmp_path: Path) -> None:
    journal(tmp_path).put(RECORD)
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "odd.json").write_text('{"ips": 3}')
    (tmp_path / "half.new").write_text("{")
    assert journal(tmp_path).ids() == {"abc"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "abc.json",
        "bad.unreadable",
        "odd.unreadable",
    }
