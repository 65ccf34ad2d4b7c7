"""A long list travels in messages that a client can take."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cri.api import api_pb2 as api
from cri.rpc import batches


def item(number: int, size: int = 0) -> bytes:
    one = api.Container(id=str(number), image_ref="x" * size)
    return api.StreamContainersResponse(containers=[one]).SerializeToString()


def test_of_nothing_there_is_no_message() -> None:
    assert list(batches.batches([])) == []


def test_a_message_has_so_many_items_at_most() -> None:
    many = batches.MOST_ITEMS * 2 + 1
    parts = [
        api.StreamContainersResponse.FromString(batch).containers
        for batch in batches.batches(map(item, range(many)))
    ]
    assert [len(part) for part in parts] == [batches.MOST_ITEMS, batches.MOST_ITEMS, 1]
    assert [int(one.id) for part in parts for one in part] == list(range(many))


def test_an_item_larger_than_a_message_may_be_travels_alone() -> None:
    large = item(1, batches.MOST_BYTES + 1)
    assert list(batches.batches([item(0), large, item(2)])) == [item(0), large, item(2)]


@given(st.lists(st.integers(0, 2 * batches.MOST_BYTES // 5), max_size=12))
def test_every_item_comes_once_and_no_message_is_empty_or_too_large(sizes: list[int]) -> None:
    items = [item(number, size) for number, size in enumerate(sizes)]
    found = list(batches.batches(items))
    assert b"".join(found) == b"".join(items)
    assert all(0 < len(batch) <= batches.MOST_BYTES for batch in found)
