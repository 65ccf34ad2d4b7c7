"""The CRI validation suite passes, but for what critest/left_out.py names."""

from __future__ import annotations

import faulthandler
import shutil
from collections.abc import Iterator, Mapping

import pytest

from e2e.critest import images, left_out, suite
from e2e.critest.suite import Spec
from e2e.images import Registry
from e2e.node import REGISTRY, Node, started

STREAMING = "-ginkgo.focus=Streaming"


@pytest.fixture(scope="module")
def reasons() -> Mapping[str, str]:
    """The specs that are left out here."""
    if not suite.program():
        pytest.skip(
            "critest is not in PATH: build it from the sources of kubernetes-sigs/cri-tools "
            f"(`make critest`, 1.36 or later), or name it by {suite.NAMED}"
        )
    if lacking := images.missing():
        pytest.skip(f"critest: {lacking}")
    standalone = images.runs_applets_without_exec(images.busybox())
    return left_out.reasons(standalone_shell=standalone)


@pytest.fixture(scope="module")
def own_node(reasons: Mapping[str, str]) -> Iterator[Node]:
    """A node for the suite alone: it removes images, and takes ports of the node."""
    del reasons
    with started() as node:
        suite.lead_every_registry_here(node)
        node.inside(lambda: images.push(Registry(REGISTRY)))
        before = node.inventory()
        yield node
        assert node.leaks(before) == []


def unexpected(specs: list[Spec], reasons: Mapping[str, str]) -> list[str]:
    """One line for each spec that has neither passed nor a reason."""
    return [
        f"{spec.name}: {spec.state}: {spec.why[:500]}"
        for spec in specs
        if spec.state != suite.PASSED and spec.name not in reasons
    ]


def test_every_spec_passes_that_is_not_left_out_by_name(
    own_node: Node, reasons: Mapping[str, str]
) -> None:
    faulthandler.cancel_dump_traceback_later()  # a minute and more is its due
    specs = suite.run(own_node, skip=reasons)
    assert (wrong := unexpected(specs, reasons)) == [], "\n".join(wrong)
    assert sum(spec.state == suite.PASSED for spec in specs) >= 100
    known = {spec.name for spec in specs}
    assert [name for name in reasons if name not in known] == [], "no spec has these names"


def test_streams_pass_over_websockets_too(own_node: Node, reasons: Mapping[str, str]) -> None:
    specs = suite.run(own_node, *suite.WEBSOCKET, STREAMING, skip=reasons)
    assert [spec.name for spec in specs if spec.state == "failed"] == []
    assert sum(spec.state == suite.PASSED for spec in specs) >= 5


def test_specs_pass_several_at_a_time(own_node: Node, reasons: Mapping[str, str]) -> None:
    if shutil.which("ginkgo") is None:
        pytest.skip("ginkgo is not in PATH: critest runs specs in parallel by it")
    assert suite.run_in_parallel(own_node, skip=reasons) == ""
