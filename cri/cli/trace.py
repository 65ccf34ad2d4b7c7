"""podwright trace: where the time of a pod's start went."""

from __future__ import annotations

import json
import shutil
from datetime import datetime

import click

from cri.cli import show
from cri.cli.client import Client, connect
from cri.cli.waterfall import Call, bars, draw, without_short

START = frozenset({"RunPodSandbox", "CreateContainer", "StartContainer"})
PIPE_WIDTH = 120


@click.command(name="trace")
@click.argument("pod", required=False)
@click.option("--all", "-a", "everything", is_flag=True, help="Also stop, remove, exec and so on.")
@click.option("--short", "-s", is_flag=True, help="Also stages that are too short to see.")
@click.option("--output", "-o", type=click.Choice(["picture", "json"]), default="picture")
def command(
    pod: str | None,
    everything: bool,  # noqa: FBT001  # click's way
    short: bool,  # noqa: FBT001  # click's way
    output: str,
) -> None:
    """Draw how POD started, stage by stage; without POD, the pod that started last.

    A pod is named by its id, the beginning of it, or its name; also after it was removed, as long
    as the daemon remembers it.
    """
    with connect() as client:
        timelines = of_pod(client, pod) if pod else of_latest(client)
    if not everything:
        timelines = [timeline for timeline in timelines if timeline["rpc"] in START]
    if output == "json":
        click.echo(json.dumps(timelines, indent=2))
        return
    for line in picture(timelines, short=short):
        click.echo(line)


def of_pod(client: Client, pod: str) -> list[dict[str, object]]:
    """Everything that was done to a pod, oldest first; of several of that name, the newest."""
    found = _timelines(client, pod=pod)
    newest = [item["sandbox"] for item in found if item["rpc"] == "RunPodSandbox"][-1:]
    return [item for item in found if not newest or item["sandbox"] in newest]


def of_latest(client: Client) -> list[dict[str, object]]:
    """The same for the pod that was started last. A click error if there was none."""
    found = _timelines(client)
    started = [item for item in found if item["rpc"] == "RunPodSandbox"]
    if not started:
        raise click.ClickException("no pod was started since the daemon began")
    newest = started[-1]
    if not newest["sandbox"]:  # it failed before it had an id
        return [newest]
    return [item for item in found if item["sandbox"] == newest["sandbox"]]


def _timelines(client: Client, **wanted: str) -> list[dict[str, object]]:
    answer = client.diagnose("Trace", {**wanted, "limit": 1 << 20})["timelines"]
    return [item for item in answer if isinstance(item, dict)] if isinstance(answer, list) else []


def picture(timelines: list[dict[str, object]], *, short: bool = False) -> list[str]:
    """The heading, the waterfall, and what failed."""
    calls = [Call.from_json(timeline) for timeline in timelines]
    if not calls:
        return ["nothing is known of how this pod started: the daemon has been restarted since"]
    first = min(calls, key=lambda call: call.started_at)
    busy = sum(call.duration for call in calls)
    begun = datetime.fromtimestamp(first.started_at / 1e9).astimezone()
    sandbox = str(timelines[0]["sandbox"])
    heading = (
        f"{first.subject} ({show.short(sandbox)}), {begun:%d %b %H:%M:%S}: "
        f"{busy / 1e6:.1f} ms in {len(calls)} calls"
    )
    width = shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    failures = [click.style(f"{call.rpc}: {call.error}", fg="red") for call in calls if call.error]
    rows = bars(calls) if short else without_short(bars(calls))
    return [click.style(heading, bold=True), *draw(rows, width), *failures]
