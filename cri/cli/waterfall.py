"""A pod's start as a picture: one bar a stage, on one axis of milliseconds. Pure.

    RunPodSandbox               12.4 ms  ██████████████▌
      monitor                    3.1     ███▋
      network attach             8.8         ██████████▌
    CreateContainer web          1.1                    █▎
    StartContainer web           6.0                     ██████▉

Times in which the runtime was not asked for anything (the client did something else, an image was
pulled) are cut out of the axis, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import click

BLOCKS = " ▏▎▍▌▋▊▉█"
LABEL_WIDTH = 34
TIME_WIDTH = 11
LEAST_WIDTH = 20
WORTH_SAYING = 1_000_000
"""Nanoseconds: a shorter idle time is not mentioned."""
SHORT = 150
"""A stage shorter than this part of the whole is hardly a mark on the screen."""
CALL_COLOUR, STAGE_COLOURS, FAILED_COLOUR = "cyan", ("green", "yellow", "magenta"), "red"


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of the picture; times in ns on the axis. `depth`: 0 for an RPC, then its stages.

    many: it stands for several short stages, and is told without a bar.
    """

    label: str
    start: int
    duration: int
    depth: int
    failed: bool = False
    remark: str = ""
    many: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One RPC of a timeline as the daemon tells it. Times in ns, stages from the call's start."""

    rpc: str
    subject: str
    started_at: int
    duration: int
    error: str
    stages: tuple[tuple[str, int, int], ...]

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Call:
        stages = value.get("stages")
        return cls(
            str(value["rpc"]),
            str(value.get("subject", "")),
            _whole(value["started_at"]),
            _whole(value["duration"]),
            str(value.get("error", "")),
            tuple(
                (str(stage["name"]), _whole(stage["start"]), _whole(stage["duration"]))
                for stage in (stages if isinstance(stages, list) else [])
            ),
        )


def _whole(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} where the daemon should say nanoseconds")
    return value


def bars(calls: Sequence[Call]) -> list[Bar]:
    """The rows, in order of time, on an axis without the times in which no call was under way."""
    made: list[Bar] = []
    cut, busy_until = 0, 0
    for call in sorted(calls, key=lambda call: call.started_at):
        idle = max(0, call.started_at - busy_until) if made else 0
        cut += idle if made else call.started_at
        busy_until = max(busy_until, call.started_at + call.duration)
        start = call.started_at - cut
        label = f"{call.rpc} {call.subject}".strip()
        remark = f"{idle / 1e6:.1f} ms outside of the runtime" if idle >= WORTH_SAYING else ""
        made.append(Bar(label, start, call.duration, 0, bool(call.error), remark))
        made += _stages(call, start)
    return made


def _stages(call: Call, start: int) -> Iterable[Bar]:
    """A stage within another one is drawn beneath it, deeper."""
    around: list[tuple[int, int]] = []
    for name, begin, duration in sorted(call.stages, key=lambda s: (s[1], -s[2])):
        while around and not (around[-1][0] <= begin and begin + duration <= around[-1][1]):
            around.pop()
        around.append((begin, begin + duration))
        yield Bar(name, start + begin, duration, len(around))


def without_short(rows: Sequence[Bar]) -> list[Bar]:
    """The rows that are long enough to be seen; of the others, one row a call with their sum."""
    least = _end(rows) // SHORT
    kept: list[Bar] = []
    short: list[Bar] = []
    for row in rows:
        if row.depth == 0:
            kept += _summed(short)
            short = []
        if row.depth == 0 or row.duration >= least:
            kept.append(row)
        else:
            short.append(row)
    return kept + _summed(short)


def _summed(short: Sequence[Bar]) -> list[Bar]:
    if not short:
        return []
    total = sum(row.duration for row in short)
    label = f"{len(short)} shorter stages" if len(short) > 1 else short[0].label
    return [Bar(label, short[0].start, total, 1, many=True)]


def _end(rows: Sequence[Bar]) -> int:
    return max(1, *(row.start + row.duration for row in rows)) if rows else 1


def draw(rows: Sequence[Bar], width: int) -> list[str]:
    """The picture as lines of `width` columns, with ANSI colours (click strips them if needed)."""
    if not rows:
        return []
    labels = min(LABEL_WIDTH, max(len(row.label) + 2 * row.depth for row in rows))
    room = max(LEAST_WIDTH, width - labels - TIME_WIDTH - 2)
    end = _end(rows)
    lines = [" " * (labels + TIME_WIDTH + 2) + click.style(_axis(end, room), dim=True)]
    for row in rows:
        if row.remark:
            lines.append(click.style(f"{'·' * 3} {row.remark}", dim=True))
        label = _fit("  " * row.depth + row.label, labels)
        unit = " ms" if row.depth == 0 else "   "
        time = f"{row.duration / 1e6:{TIME_WIDTH - 3}.2f}{unit}"
        lines.append(_styled(row, f"{label}{time}", _bar(row, end, room)))
    return lines


def _styled(row: Bar, text: str, bar: str) -> str:
    if row.many:
        return click.style(text.rstrip(), dim=True)
    if row.failed:
        return click.style(f"{text}  {bar}", fg=FAILED_COLOUR)
    if row.depth == 0:
        return f"{click.style(text, bold=True)}  {click.style(bar, fg=CALL_COLOUR)}"
    colour = STAGE_COLOURS[(row.depth - 1) % len(STAGE_COLOURS)]
    return f"{text}  {click.style(bar, fg=colour)}"


def _fit(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else text[: width - 1] + "…"


def _bar(row: Bar, end: int, room: int) -> str:
    """Begins in the cell of its start; its length is exact to an eighth of a cell."""
    first = min(room - 1, row.start * room // end)
    eighths = max(1, round(row.duration * room * 8 / end))
    full, rest = divmod(min(eighths, (room - first) * 8), 8)
    return " " * first + BLOCKS[8] * full + (BLOCKS[rest] if rest else "")


def _axis(end: int, room: int) -> str:
    """Round numbers of milliseconds, each where its time is."""
    step = _step(end / 1e6, room // 9)
    line = ""
    for number in range(room):
        value = number * step
        place = round(value * 1e6 * room / end)
        label = f"{value:g}"
        if place + len(label) + 3 > room:
            break
        line = line.ljust(place) + label
    return f"{line} ms"


def _step(span: float, most: int) -> float:
    """A round number of which at most `most` fit into `span`."""
    wanted = span / max(1, most)
    size = 1e-3
    while True:
        for factor in (1, 2, 5):
            if size * factor >= wanted:
                return size * factor
        size *= 10
