"""One run: start the daemons, take turns, stop everything, look for leftovers."""

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e2e.bench import images, report, runtimes, stage, stages
from e2e.bench.client import Client
from e2e.bench.measures import density, exec_sync, idle, logs, parallel, pod_life, pull, streams
from e2e.bench.measures.measure import Measure
from e2e.bench.runtimes import Started

MEASURES = (
    idle.MEASURE,
    pod_life.MEASURE,
    exec_sync.MEASURE,
    parallel.MEASURE,
    density.MEASURE,
    logs.MEASURE,
    streams.MEASURE,
    pull.MEASURE,
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What to measure; `rounds` None: each measure's own number; `json`: where samples go."""

    measures: tuple[Measure, ...]
    names: tuple[str, ...]
    rounds: int | None
    json: Path | None


def run(settings: Settings, directory: Path) -> int:
    """Runs inside the stage's namespaces; the exit code."""
    disk = stage.furnish(directory)
    begin = time.monotonic()
    with _registry(disk, settings.measures), _started(disk, directory, settings.names) as started:
        clients = [Client(runtime) for daemon in started for runtime in daemon.runtimes]
        collected, life = _collect(settings, clients)
        for client in clients:
            client.close()
    grids = [report.table(settings.measures, settings.names, collected)]
    report.show(*grids, *([stages.table(life)] if life else []))
    if settings.json is not None:
        document = report.document(settings.measures, settings.names, collected)
        report.write(settings.json, {**document, "stages": life})
    _say(f"took {time.monotonic() - begin:.0f} s")
    return 0


def _collect(
    settings: Settings, clients: Sequence[Client]
) -> tuple[report.Collected, list[dict[str, Any]]]:
    """Every measure's rounds; in a round each runtime has its turn, another one first each time.

    Answers the samples, and podwright's own account of the lives that `pod-life` has measured.
    """
    life: list[dict[str, Any]] = []
    collected: dict[str, dict[str, list[float]]] = {
        client.runtime.name: defaultdict(list) for client in clients
    }
    for client in clients:
        _warm_up(client)
    for measure in settings.measures:
        able = [
            client
            for client in clients
            if not (measure.per_daemon and client.runtime.name == runtimes.CRUN)
        ]
        rounds = settings.rounds or measure.rounds
        begin = time.monotonic()
        for number in range(rounds):
            first = number % len(able)
            for client in able[first:] + able[:first]:
                for key, value in measure.run(client).items():
                    collected[client.runtime.name][key].append(value)
        if measure is pod_life.MEASURE:
            life = _stages(clients, lives=rounds * pod_life.LIVES)
        _say(f"{measure.name}: {rounds} rounds in {time.monotonic() - begin:.0f} s")
    return collected, life


def _stages(clients: Sequence[Client], *, lives: int) -> list[dict[str, Any]]:
    """podwright's own account of its latest lives, if it takes part."""
    addresses = [
        each.runtime.address for each in clients if each.runtime.name == runtimes.PODWRIGHT
    ]
    return stages.summary(stages.fetch(addresses[0], lives=lives)) if addresses else []


def _warm_up(client: Client) -> None:
    """The image is there, and every path has been walked once."""
    client.pull(images.BUSYBOX)
    pod = client.start_pod()
    client.exec(pod, "/bin/true")
    client.end_pod(pod)
    time.sleep(1)


@contextlib.contextmanager
def _registry(disk: Path, measures: Sequence[Measure]) -> Iterator[None]:
    registry = images.Registry(disk / "registry")
    try:
        registry.start()
        registry.fill(tree=pull.MEASURE in measures)
        yield
    finally:
        registry.stop()


@contextlib.contextmanager
def _started(disk: Path, directory: Path, names: Sequence[str]) -> Iterator[list[Started]]:
    """The daemons that serve `names`; what they said last is printed when something fails."""
    prefix, started = stage.group_prefix(directory), []
    try:
        if runtimes.PODWRIGHT in names:
            started.append(runtimes.start_podwright(disk / "podwright", prefix))
        if {runtimes.RUNC, runtimes.CRUN} & set(names):
            started.append(runtimes.start_containerd(disk / "containerd", prefix, set(names)))
        yield started
    except Exception:
        for each in started:
            sys.stderr.write(f"--- {each.daemon.name}:\n{each.daemon.tail()}\n")
        raise
    finally:
        for each in started:
            each.daemon.stop()


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
