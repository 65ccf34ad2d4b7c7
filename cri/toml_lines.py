"""On which line of a TOML text a key is set: tomllib does not tell."""

from __future__ import annotations

import tomllib

Key = tuple[str, ...]  # ("network", "mtu")


def line_of(text: str, path: Key) -> int:
    """The line on which a key is set: the first beginning of the text, cut at a line's end, that is
    TOML and has the key; the statement begins after the longest shorter one. Exact, if not fast."""
    lines = text.splitlines()
    begin = 0
    for count in range(1, len(lines) + 1):
        try:
            data: object = tomllib.loads("\n".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            continue
        if _has(data, path):
            blank = (not line.strip() or line.lstrip().startswith("#") for line in lines[begin:])
            return begin + 1 + next((n for n, skip in enumerate(blank) if not skip), 0)
        begin = count
    return 0


def _has(data: object, path: Key) -> bool:
    for name in path:
        if not isinstance(data, dict) or name not in data:
            return False
        data = data[name]
    return True
