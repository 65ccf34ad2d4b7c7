"""The tar parser beside the standard library's, and against whoever means harm."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from image.errors import LayerMalformed
from image.tests.build import file, folder, hardlink, member, symlink, tar
from image.unpack.tar import Archive, Entry


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def read(data: bytes, size: int = 700) -> list[tuple[Entry, bytes]]:
    archive = Archive(cut(data, size))
    return [(entry, b"".join(archive.contents())) for entry in archive]


LONG = "deep/" * 40 + "name"


@pytest.mark.parametrize("dialect", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("size", [1, 511, 512, 513, 1 << 20])
def test_all_dialects_are_read_alike(dialect: int, size: int) -> None:
    data = tar(
        folder("d", mode=0o1777, uid=7, gid=8),
        file("d/f", b"x" * 1000, mode=0o4755, mtime=1_700_000_001),
        symlink("d/s", "f"),
        hardlink("d/h", "d/f"),
        (member("d/c", tarfile.CHRTYPE, devmajor=1, devminor=3), b""),
        (member("d/p", tarfile.FIFOTYPE), b""),
        file("p" * 90 + "/" + "q" * 90, b"long"),
        dialect=dialect,
    )
    entries = read(data, size)
    names = [entry.name for entry, _ in entries]
    assert names[:2] == [b"d/" if dialect != tarfile.PAX_FORMAT else names[0], b"d/f"]
    whole, contents = entries[1]
    assert (whole.mode, whole.size, whole.mtime_ns) == (0o4755, 1000, 1_700_000_001_000_000_000)
    assert contents == b"x" * 1000
    assert (entries[0][0].kind, entries[0][0].uid, entries[0][0].gid) == (b"5", 7, 8)
    assert entries[2][0].target == b"f"
    assert (entries[3][0].kind, entries[3][0].target) == (b"1", b"d/f")
    assert entries[4][0].device == (1, 3)
    assert names[6] == b"p" * 90 + b"/" + b"q" * 90
    assert entries[6][1] == b"long"


@pytest.mark.parametrize("dialect", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_large_numbers_and_times(dialect: int) -> None:
    data = tar(
        file(LONG, b"1", uid=3_000_000, gid=4_000_000, mtime=1_700_000_000.25),
        symlink("s", LONG),
        file("n\udcff\u00e4", b""),
        dialect=dialect,
    )
    (first, _), (second, _), (third, _) = read(data)
    assert first.name == LONG.encode()
    assert (first.uid, first.gid) == (3_000_000, 4_000_000)
    assert first.mtime_ns in (1_700_000_000_250_000_000, 1_700_000_000_000_000_000)
    assert second.target == LONG.encode()
    assert third.name == b"n\xff\xc3\xa4"


def test_attributes_come_from_pax_records() -> None:
    headers = {"SCHILY.xattr.user.k": "v", "comment": "none"}
    data = tar(file("f", b"", pax_headers=headers), file("g", b""))
    (first, _), (second, _) = read(data)
    assert first.xattrs == {b"user.k": b"v"}
    assert second.xattrs == {}


@pytest.mark.parametrize(
    "options",
    [["--format=gnu"], *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0"))],
)
def test_sparse_files_are_read_as_gnu_tar_writes_them(tmp_path: Path, options: list[str]) -> None:
    whole = bytearray(3_000_000)
    path = tmp_path / "holes"
    with path.open("wb") as holes:
        for number in range(30):
            holes.seek(number * 100_000)
            holes.write(b"%03d" % number)
            whole[number * 100_000 : number * 100_000 + 3] = b"%03d" % number
        holes.truncate(len(whole))
    command = ["tar", "-C", str(tmp_path), "--sparse", *options, "-cf", "-", "holes"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(archive) < 1_000_000
    ((entry, stored),) = read(archive)
    assert entry.name == b"holes"
    assert entry.size == len(whole)
    assert entry.pieces is not None
    rebuilt = bytearray(entry.size)
    for offset, length in entry.pieces:
        rebuilt[offset : offset + length], stored = stored[:length], stored[length:]
    assert rebuilt == whole


def test_members_may_be_passed_over() -> None:
    data = tar(file("a", b"x" * 5000), file("b", b"y"))
    assert [entry.name for entry in Archive(cut(data, 300))] == [b"a", b"b"]


def test_what_is_behind_the_end_is_read_too() -> None:
    chunks = cut(tar(file("a", b"1")) + b"trailing" * 1000, 512)
    list(Archive(chunks))
    assert next(chunks, None) is None


def test_an_empty_archive_has_no_members() -> None:
    assert read(b"") == []
    assert read(bytes(1024)) == []
    assert read(bytes(512)) == []


def header(**fields: bytes) -> bytes:
    """A ustar header of a file "x" with fields set as raw bytes, its checksum right."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    places = {
        "name": 0,
        "mode": 100,
        "uid": 108,
        "gid": 116,
        "size": 124,
        "mtime": 136,
        "kind": 156,
    }
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(records: bytes, size: int | None = None) -> bytes:
    shown = b"%011o\0" % (len(records) if size is None else size)
    return header(kind=b"x", size=shown) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"x" * 512, "checksum"),
        (b"x" * 100, "cut short"),
        (header(size=b"00000000012\0"), "cut short"),
        (header(size=b"-0000000001\0"), "no number"),
        (header(size=b"0x000000001\0"), "no number"),
        (header(size=b"\xff" * 12), "no number"),
        (header(uid=b"\x80\0\0\1\0\0\0\0"), "out of range"),
        (pax(b"", 2 << 20), "extended header of"),
        (pax(b"12 path=a\n"), "malformed"),
        (pax(b"8 path=a\n"), "malformed"),
        (pax(b"99999999 path=a\n"), "malformed"),
        (pax(b"0 \n"), "malformed"),
        (pax(b"-5 a=b\n"), "malformed"),
        (pax(b"12 size=-12\n") + header(), "no number"),
        (pax(b"30 size=99999999999999999999\n") + header(), "malformed|no number"),
        (pax(b"12 path=a\0b\n") + header(), "zero byte"),
        (pax(b"22 GNU.sparse.size=10\n23 GNU.sparse.map=0,20\n") + header(), "contradicts"),
        (pax(b"22 GNU.sparse.size=10\n21 GNU.sparse.map=5,\n") + header(), "odd number"),
    ],
)
def test_a_malformed_archive_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(LayerMalformed, match=message):
        read(data + bytes(1024) if b"cut" not in message.encode() else data)


def test_times_out_of_range_become_1970() -> None:
    for mtime in (b"\xff" * 12, b"\x80" + b"\x7f" * 11):
        ((entry, _),) = read(header(mtime=mtime) + bytes(1024))
        assert entry.mtime_ns == 0


@given(st.binary(max_size=2000), st.integers(1, 600))
def test_random_bytes_are_refused_or_read(data: bytes, size: int) -> None:
    with contextlib.suppress(LayerMalformed):
        read(data, size)


TEMPLATE = tar(
    folder("d"),
    file("d/f", b"x" * 600, pax_headers={"SCHILY.xattr.user.k": "v", "mtime": "1.5"}),
    file(LONG, b"y"),
    symlink("s", LONG),
)


@settings(max_examples=300)
@given(st.integers(0, len(TEMPLATE) - 1), st.binary(min_size=1, max_size=16), st.booleans())
def test_a_damaged_archive_is_refused_or_read(at: int, patch: bytes, repair: bool) -> None:
    """With `repair`, checksums are made right again, so that the damage gets past them."""
    data = bytearray(TEMPLATE)
    data[at : at + len(patch)] = patch
    if repair:
        start = at - at % 512
        block = data[start : start + 512]
        block[148:156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % (sum(block) & 0o777777)
    try:
        for entry, _ in read(bytes(data)):
            assert b"\0" not in entry.name
            assert 0 <= entry.mtime_ns < 2**64
            assert 0 <= entry.uid < 2**32 - 1
    except LayerMalformed:
        pass


NAMES = st.text(alphabet="ab.é/", min_size=1, max_size=120).filter(lambda name: name.strip("./"))


@given(st.lists(st.tuples(NAMES, st.binary(max_size=700)), max_size=8), st.sampled_from([0, 1, 2]))
def test_what_the_standard_library_writes_is_read(
    items: list[tuple[str, bytes]], dialect: int
) -> None:
    try:
        data = tar(*(file(name.rstrip("/"), body) for name, body in items), dialect=dialect)
    except ValueError:  # ustar can't hold it
        return
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(info.name.encode(), info.size) for info in archive.getmembers()]
    assert [(entry.name, entry.size) for entry, _ in read(data)] == expected
    assert [body for _, body in read(data)] == [body for _, body in items]
