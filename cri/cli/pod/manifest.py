"""A Pod manifest read strictly: every field is known to Kubernetes, and of the right type.

The kubernetes package knows each field of a Pod and its type; the YAML node tree knows the lines.
What comes out are `Fields`: mappings that remember which of their fields were read, so that the
fields which `podwright run` does nothing with can be listed without a second table to keep in step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click
import kubernetes.client
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

QUANTITIES = frozenset({"limits", "requests", "overhead", "sizeLimit", "divisor"})
"""Texts that may be written as numbers, too (`cpu: 1`)."""

SCALARS: Mapping[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "a string"),
    "int": (int, "an integer"),
    "bool": (bool, "true or false"),
    "float": ((int, float), "a number"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where (a dotted path and a line, from 1) and what."""

    path: str
    line: int
    text: str


class ManifestError(click.ClickException):
    """The manifest can't be run: every problem, one a line, as `file:line: path: text`."""

    def __init__(self, source: str, problems: list[Problem]) -> None:
        told = sorted(problems, key=lambda problem: problem.line)
        super().__init__("\n".join(f"{source}:{p.line}: {p.path}: {p.text}" for p in told))
        self.problems = told


@dataclass(slots=True)
class Fields:
    """A mapping of the manifest. Reading a field marks it; absent fields read as empty."""

    path: str
    lines: Mapping[str, int]
    values: Mapping[str, object] = field(default_factory=dict)
    _read: set[str] = field(default_factory=set)
    _inner: dict[str, list[Fields]] = field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def _get(self, name: str) -> object:
        self._read.add(name)
        return self.values.get(name)

    def override(self, name: str, value: str) -> None:
        """A field as if the manifest said so."""
        self.values = {**self.values, name: value}

    def text(self, name: str, default: str = "") -> str:
        value = self._get(name)
        return default if value is None else str(value)

    def number(self, name: str, default: int = 0) -> int:
        value = self._get(name)
        return value if isinstance(value, int) else default

    def flag(self, name: str, *, default: bool = False) -> bool:
        value = self._get(name)
        return value if isinstance(value, bool) else default

    def texts(self, name: str) -> list[str]:
        value = self._get(name)
        return [str(item) for item in value] if isinstance(value, list) else []

    def numbers(self, name: str) -> list[int]:
        value = self._get(name)
        return [item for item in value if isinstance(item, int)] if isinstance(value, list) else []

    def table(self, name: str) -> dict[str, str]:
        value = self._get(name)
        return {str(k): str(v) for k, v in value.items()} if isinstance(value, dict) else {}

    def inner(self, name: str) -> Fields:
        """The mapping called `name`; an empty one where there is none."""
        if name not in self._inner:
            value = self._get(name)
            self._inner[name] = [self._of(name, value)]
        return self._inner[name][0]

    def each(self, name: str) -> list[Fields]:
        """The mappings of the list called `name`."""
        if name not in self._inner:
            value = self._get(name)
            items = value if isinstance(value, list) else []
            self._inner[name] = [self._of(f"{name}[{i}]", item) for i, item in enumerate(items)]
        return self._inner[name]

    def _of(self, name: str, value: object) -> Fields:
        return Fields(_join(self.path, name), self.lines, value if isinstance(value, dict) else {})

    def unread(self) -> Iterator[str]:
        """Paths of the fields that nobody read; of a subtree nobody read, only its root."""
        for name in self.values:
            if name not in self._read:
                yield _join(self.path, name)
            for inner in self._inner.get(name, []):
                yield from inner.unread()

    def problem(self, name: str, text: str) -> Problem:
        """A problem with the field `name` (or with the mapping itself, if `name` is empty)."""
        path = _join(self.path, name) if name else self.path
        return Problem(path, self.lines.get(path) or self.lines.get(self.path, 1), text)


def read(path: Path) -> Fields:
    """The Pod in the file `path`. ManifestError with every problem of form; OSError as it is."""
    return parse(path.read_text(), str(path))


def parse(text: str, source: str) -> Fields:
    """The Pod that `text` describes; `source` names it in errors."""
    loader = yaml.SafeLoader(text)
    try:
        document = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ManifestError(source, [Problem("YAML", line, _yaml_problem(error))]) from error
    except yaml.YAMLError as error:
        raise ManifestError(source, [Problem("YAML", 1, str(error))]) from error
    finally:
        loader.dispose()
    reader = _Reader()
    value = reader.read(document, "V1Pod", "") if document is not None else None
    if not reader.problems and not (isinstance(value, dict) and value.get("kind") == "Pod"):
        kind = value.get("kind", "nothing") if isinstance(value, dict) else "nothing"
        said = f"a Pod is expected, got {kind}"
        reader.problems.append(Problem("kind", reader.lines.get("kind", 1), said))
    if reader.problems:
        raise ManifestError(source, reader.problems)
    return Fields("", reader.lines, value if isinstance(value, dict) else {})


def _yaml_problem(error: yaml.MarkedYAMLError) -> str:
    if error.context == "expected a single document in the stream":
        return "there are several documents in the file; `podwright run` takes one Pod"
    return error.problem or str(error)


class _Reader:
    """Turns YAML nodes into plain values while checking them against the types of the Pod."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.lines: dict[str, int] = {}
        self._loader = yaml.SafeLoader("")
        self._flattened: set[int] = set()

    def read(self, node: yaml.Node, kind: str, path: str) -> object:
        self.lines[path] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
            return None
        if found := re.fullmatch(r"List\[(.*)\]", kind):
            return self._list(node, found[1], path)
        if found := re.fullmatch(r"Dict\[str, (.*)\]", kind):
            return self._table(node, found[1], path)
        if kind == "quantity" or (kind == "str" and path.rpartition(".")[2] in QUANTITIES):
            return self._quantity(node, path)
        if kind in SCALARS or kind in ("object", "datetime"):
            return self._scalar(node, kind, path)
        return self._model(node, kind, path)

    def _list(self, node: yaml.Node, kind: str, path: str) -> object:
        if not isinstance(node, yaml.SequenceNode):
            return self._complain(node, path, "a list")
        return [self.read(item, kind, f"{path}[{i}]") for i, item in enumerate(node.value)]

    def _table(self, node: yaml.Node, kind: str, path: str) -> object:
        if not isinstance(node, yaml.MappingNode):
            return self._complain(node, path, "a mapping")
        loose = kind == "str" and path.rpartition(".")[2] in QUANTITIES
        return {
            name: self.read(value, "quantity" if loose else kind, _join(path, name))
            for name, value in self._pairs(node, path)
        }

    def _scalar(self, node: yaml.Node, kind: str, path: str) -> object:
        value: object = self._loader.construct_object(node, deep=True)
        if kind in ("object", "datetime"):
            return value
        types, said = SCALARS[kind]
        wrong_bool = isinstance(value, bool) and kind != "bool"
        if isinstance(value, types) and not wrong_bool:
            return value
        return self._complain(node, path, said)

    def _model(self, node: yaml.Node, kind: str, path: str) -> object:
        if not isinstance(node, yaml.MappingNode):
            return self._complain(node, path, "a mapping")
        model = getattr(kubernetes.client, kind)
        types = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
        values: dict[str, object] = {}
        for name, value in self._pairs(node, path):
            where = _join(path, name)
            if name in types:
                values[name] = self.read(value, types[name], where)
            else:
                line = value.start_mark.line + 1
                self.problems.append(Problem(where, line, f"unknown field{_alike(name, types)}"))
        return {name: value for name, value in values.items() if value is not None}

    def _quantity(self, node: yaml.Node, path: str) -> object:
        value = self._loader.construct_object(node)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return str(value)
        return self._complain(node, path, "a quantity such as 500m or 64Mi")

    def _pairs(self, node: yaml.MappingNode, path: str) -> Iterator[tuple[str, yaml.Node]]:
        if id(node) not in self._flattened:
            self._flattened.add(id(node))
            self._refuse_doubles(node, path)
            self._loader.flatten_mapping(node)  # YAML's merge key, <<
        for key, value in node.value:
            yield str(key.value), value

    def _refuse_doubles(self, node: yaml.MappingNode, path: str) -> None:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                said = "this field is there twice"
                self.problems.append(Problem(_join(path, str(key.value)), line, said))
            seen.add(key.value)

    def _complain(self, node: yaml.Node, path: str, expected: str) -> object:
        got, remedy = "something else", ""
        if isinstance(node, yaml.ScalarNode):
            got = repr(node.value)
            remedy = f': write "{node.value}" with quotes' if expected == "a string" else ""
        elif isinstance(node, yaml.MappingNode | yaml.SequenceNode):
            got = "a mapping" if isinstance(node, yaml.MappingNode) else "a list"
        said = f"{expected} is expected, got {got}{remedy}"
        self.problems.append(Problem(path, node.start_mark.line + 1, said))
        return None


def _alike(name: str, known: Mapping[str, str]) -> str:
    import difflib  # only for people who mistyped

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _join(path: str, name: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]*(\[\d+\])?", name):
        return f"{path}.{name}" if path else name
    return f"{path}[{name!r}]"
