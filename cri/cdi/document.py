"""JSON and YAML that somebody has written for a node: values, in bounded time and memory."""

from __future__ import annotations

import json

MOST_NESTED = 64  # levels of YAML; a file that is right has six


def loaded(text: bytes, *, yaml: bool) -> object:
    """Its values. Raises ValueError."""
    if yaml:
        return _loaded_yaml(text)
    try:
        value: object = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except RecursionError:
        raise ValueError("nested too deeply") from None
    return value


def _loaded_yaml(text: bytes) -> object:
    import yaml as pyyaml  # few nodes have such files, and the daemon is small without it

    depth = 0
    try:
        for event in pyyaml.parse(text, pyyaml.CSafeLoader):
            # A few lines with aliases of aliases can stand for more values than fit in memory.
            if isinstance(event, pyyaml.AliasEvent):
                raise ValueError("has aliases (*name): write it out")
            depth += isinstance(event, pyyaml.CollectionStartEvent)
            depth -= isinstance(event, pyyaml.CollectionEndEvent)
            if depth > MOST_NESTED:  # loading it would overflow the stack
                raise ValueError("nested too deeply")
        value: object = pyyaml.load(text, Loader=pyyaml.CSafeLoader)
    except pyyaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    return value
