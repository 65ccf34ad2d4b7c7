"""The parts of a measure that can be wrong without anybody noticing."""

import gzip
import hashlib
import io
import os
import tarfile
from pathlib import Path

import pytest

from e2e.bench import accounting, images
from e2e.bench.measures import logs


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        ("2026-01-02T03:04:05.123456789Z", 1767323045.123456),
        ("2026-01-02T03:04:05.5Z", 1767323045.5),
        ("2026-01-02T03:04:05Z", 1767323045.0),
        ("2026-01-02T03:04:05.123456789+00:00", 1767323045.123456),
    ],
)
def test_the_time_of_the_first_line_is_read_whatever_its_number_of_digits(
    stamp: str, expected: float
) -> None:
    assert logs.seconds(stamp) == expected


def test_a_layer_unpacks_to_what_its_digest_says() -> None:
    layer = images.make_layer({"a/b/c": b"text"}, {"a/link": "b/c"})
    raw = gzip.decompress(layer.blob)
    assert layer.diff_id == "sha256:" + hashlib.sha256(raw).hexdigest()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getnames() == ["a", "a/b", "a/b/c", "a/link"]


def test_pss_of_this_process_is_between_its_private_pages_and_its_resident_ones() -> None:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 1 << 20 < accounting.pss_bytes(os.getpid()) <= resident + (1 << 20)


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert accounting.pss_bytes(2**22 + 1) == 0


def test_busy_time_of_the_machine_grows_while_something_computes() -> None:
    before = accounting.machine_cpu_seconds()
    for _ in range(200):
        hashlib.sha256(bytes(1 << 20)).digest()
    assert accounting.machine_cpu_seconds() > before
