"""Ids, cut ids and label filters: pure functions over what is in memory."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cri.errors import AmbiguousId

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ID_LENGTH = 64  # hexadecimal digits, as all Kubernetes runtimes have it


def new_id() -> str:
    """A random id of 64 hexadecimal digits."""
    return secrets.token_hex(ID_LENGTH // 2)


def resolve(text: str, ids: Collection[str]) -> str | None:
    """The id that `text` is, or is the beginning of. None: there is none. Raises AmbiguousId."""
    if text in ids:
        return text
    if not text or len(text) >= ID_LENGTH:
        return None
    found = [candidate for candidate in ids if candidate.startswith(text)]
    if len(found) > 1:
        raise AmbiguousId(text, len(found))
    return found[0] if found else None


def labels_match(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether every label of the selector is there, with that value."""
    return all(labels.get(key) == value for key, value in selector.items())


def resolve_quietly(text: str, ids: Collection[str]) -> str | None:
    """As `resolve`, but what is ambiguous is as good as nothing: for filters."""
    try:
        return resolve(text, ids)
    except AmbiguousId:
        return None
