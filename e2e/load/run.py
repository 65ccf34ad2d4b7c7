"""One run: pods up, kubelet's habits for a while, pods down; then lives, and what they leave."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from e2e import images
from e2e.images import Image, Registry
from e2e.kubelet import Container, Kubelet, Pod
from e2e.load import usage
from e2e.load.habits import CALLS, Habits
from e2e.load.samples import Samples
from e2e.node import REGISTRY, started

WARM_UP = 20
"""Lives before the first look at what the daemon holds: it has loaded and opened all by then."""
LATE = 1.0
"""Seconds after which kubelet gives a probe up."""

Document = dict[str, object]
Pair = tuple[Pod, Container]


@dataclass(frozen=True, slots=True)
class Settings:
    """How much: pods that stand, seconds of habits, lives, and how many lives at a time."""

    pods: int = 200
    seconds: float = 600
    lives: int = 5000
    parallel: int = 4
    probes_per_second: float = 5


def run(settings: Settings) -> Document:
    """Everything, on a node of its own; all figures. `left`: what is left of pods at the end."""
    with started(daemon=False) as node:
        node.start_daemon(log_level="info")
        image = Image([images.busybox()], {"Cmd": ["sh"]})
        node.inside(lambda: image.push(Registry(REGISTRY), "library/busybox", "1.35"))
        kubelet = Kubelet(node)
        kubelet.image = kubelet.pull(f"{REGISTRY}/library/busybox:1.35")
        before = node.inventory()
        standing = _standing(kubelet, settings) if settings.pods else {}
        lives = _lives(kubelet, settings, before) if settings.lives else {}
        left = list(node.leaks(before))
    return {"settings": asdict(settings), "standing": standing, "lives": lives, "left": left}


def _standing(kubelet: Kubelet, settings: Settings) -> Document:
    """Pods that stand, and kubelet's habits on them."""
    node = kubelet.node
    _say(f"{settings.pods} pods are started")
    begun = time.monotonic()
    with ThreadPoolExecutor(settings.parallel) as pool:
        pods = list(pool.map(lambda _: _start(kubelet), range(settings.pods)))
    up_seconds = time.monotonic() - begun
    habits = Habits(node.client, pods, settings.probes_per_second)
    processes = usage.Processes.of(node)
    _say(f"kubelet's habits for {settings.seconds:g} s")
    burnt, begun = processes.cpu_seconds(), time.monotonic()
    with habits.kept():
        time.sleep(settings.seconds)
        elapsed = time.monotonic() - begun
        cores = {
            name: (now - burnt[name]) / elapsed for name, now in processes.cpu_seconds().items()
        }
    held = usage.snapshot(node)
    probes = habits.samples["ExecSync"]
    with ThreadPoolExecutor(settings.parallel) as pool:
        list(pool.map(lambda pair: pair[0].remove(), pods))
    kubelet.pods.clear()
    return {
        "pods": settings.pods,
        "pods_per_second": settings.pods / up_seconds,
        "seconds": elapsed,
        "cores": cores,
        "calls": {what: habits.samples[what].document() for what in CALLS},
        "late_probes": probes.later_than(LATE),
        "events": habits.events,
        "held": held,
    }


def _lives(kubelet: Kubelet, settings: Settings, before: dict[str, set[str]]) -> Document:
    """Lives in two halves, with a look at what the daemon holds before, between and after."""
    node, samples = kubelet.node, Samples()

    def live(count: int) -> None:
        with ThreadPoolExecutor(settings.parallel) as pool:
            list(pool.map(lambda _: _live(kubelet, samples), range(count)))

    def looks() -> Iterator[dict[str, dict[str, int]]]:
        for count in (min(WARM_UP, settings.lives), settings.lives // 2, settings.lives // 2):
            live(count)
            node.leaks(before)  # waits until the last of them has been cleared away
            yield usage.snapshot(node)

    _say(f"{settings.lives} lives, {settings.parallel} at a time")
    begun = time.monotonic()
    held = dict(zip(("before", "middle", "after"), looks(), strict=True))
    elapsed = time.monotonic() - begun
    counted = len(samples.seconds) + samples.failed
    return {
        "lives": counted,
        "lives_per_second": counted / elapsed,
        "life": samples.document(),
        "held": held,
    }


def _start(kubelet: Kubelet) -> Pair:
    pod = kubelet.pod()
    return pod, pod.container().start()


def _live(kubelet: Kubelet, samples: Samples) -> None:
    """One whole life, with its directory of logs, which is kubelet's to remove."""
    with samples.timed():
        pod, container = _start(kubelet)
        container.stop()
        container.remove()
        pod.remove()
        shutil.rmtree(pod.config.log_directory, ignore_errors=True)


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
