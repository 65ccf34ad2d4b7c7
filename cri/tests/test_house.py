"""The rules of the house that no linter knows: sizes, names, and a README that tells the truth."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.api import api_pb2 as api
from cri.service import TABLES

TOP = Path(__file__).parents[2]
PACKAGES = ("cri", "runtime", "image", "network")
FILE_LINES = 400
FUNCTION_LINES = 50
ROOMS_WITHOUT_A_PURPOSE = {"common", "util", "utils", "helper", "helpers", "misc", "shared"}


def sources() -> Iterator[Path]:
    for package in (*PACKAGES, "e2e"):
        yield from (p for p in (TOP / package).rglob("*.py") if not p.stem.endswith("_pb2"))


def test_a_file_can_be_read_in_one_sitting() -> None:
    long = {
        str(path.relative_to(TOP)): lines
        for path in sources()
        if (lines := len(path.read_text().splitlines())) >= FILE_LINES
    }
    assert long == {}, f"split them: fewer than {FILE_LINES} lines"


def test_a_function_fits_on_a_screen() -> None:
    long = [
        f"{path.relative_to(TOP)}:{node.lineno} {node.name}"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES
    ]
    assert long == [], f"split them: fewer than {FUNCTION_LINES} lines"


def test_every_room_has_a_purpose() -> None:
    assert not [path for path in sources() if path.stem in ROOMS_WITHOUT_A_PURPOSE]


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(TOP))
        for path in sources()
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_explains_itself_and_its_decisions(package: str) -> None:
    text = (TOP / package / "README.md").read_text()
    assert "\n## Decisions\n" in text


def test_the_readme_fits_on_two_screens_per_section() -> None:
    sections = re.split(r"^## ", (TOP / "README.md").read_text(), flags=re.MULTILINE)
    long = {s.splitlines()[0]: n for s in sections if (n := len(s.splitlines())) > 80}
    assert long == {}


def readme_rows() -> dict[str, bool]:
    """The feature table: RPC -> whether it says that the RPC works."""
    rows = re.findall(r"^\| `(\w+)` \| (works|not yet) \|", (TOP / "README.md").read_text(), re.M)
    return {name: state == "works" for name, state in rows}


def test_the_readme_says_of_every_rpc_whether_it_works() -> None:
    truth = {
        method.name: method.name in TABLES[service.full_name]
        for service in api.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    assert readme_rows() == truth


def test_links_between_documents_lead_somewhere() -> None:
    documents = [path for path in TOP.rglob("*.md") if not {".venv", ".git"} & {*path.parts}]
    broken = [
        f"{document.relative_to(TOP)}: {target}"
        for document in documents
        for target in re.findall(r"\]\(([^)#]+)", document.read_text())
        if not target.startswith(("http:", "https:")) and not (document.parent / target).exists()
    ]
    assert broken == []
