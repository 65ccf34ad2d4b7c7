"""The verdicts: a wrong one would be believed."""

import io

import pytest
from rich.console import Console

from e2e.bench import report
from e2e.bench.measures.measure import Measure, Row

LESS = Row("start", "pod start", "ms", must=0.2, aim=0.1)
MORE = Row("log", "log throughput", "MB/s", "more", must=2, aim=5)
MEASURE = Measure("both", (LESS, MORE), lambda client: {}, rounds=1)
NAMES = ("podwright", "containerd+runc")


def collected(ours: list[float], theirs: list[float]) -> report.Collected:
    return {"podwright": {"start": ours}, "containerd+runc": {"start": theirs}}


@pytest.mark.parametrize(
    ("row", "factor", "expected"),
    [
        (LESS, 0.1, "aim"), (LESS, 0.11, "must"), (LESS, 0.2, "must"), (LESS, 0.21, "short"),
        (MORE, 5.0, "aim"), (MORE, 4.9, "must"), (MORE, 2.0, "must"), (MORE, 1.9, "short"),
        (LESS, None, ""), (Row("x", "no goal", "s"), 0.1, ""),
    ],
)  # fmt: skip
def test_a_goal_counts_as_reached_on_the_right_side_of_it_only(
    row: Row, factor: float | None, expected: str
) -> None:
    assert report.verdict(row, factor) == expected


def test_the_ratio_is_that_of_the_medians() -> None:
    assert report.ratio(collected([10, 20, 900], [100, 200, 100]), "start") == 0.2


def test_no_peer_no_ratio() -> None:
    assert report.ratio({"podwright": {"start": [1.0]}}, "start") is None


def test_the_table_leaves_a_missing_figure_empty() -> None:
    out = io.StringIO()
    table = report.table([MEASURE], NAMES, collected([20], [200]))
    Console(file=out, width=140).print(table)
    start, log = (
        line for line in out.getvalue().splitlines() if " pod start" in line or " log " in line
    )
    assert [cell.strip() for cell in start.split("│")[1:-1]] == [
        "pod start", "20.0 ms", "200 ms", "0.10x", "≤ 0.2x", "≤ 0.1x", "aim",
    ]  # fmt: skip
    assert [cell.strip() for cell in log.split("│")[1:-1]][1:4] == ["", "", ""]


def test_the_document_keeps_every_sample() -> None:
    document = report.document([MEASURE], NAMES, collected([20, 30], [200]))
    start = document["rows"][0]
    assert start["runtimes"]["podwright"] == {"median": 25, "samples": [20, 30]}
    assert (start["ratio"], start["verdict"]) == (0.125, "must")
