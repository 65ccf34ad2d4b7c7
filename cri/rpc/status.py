"""Status: is the runtime ready, is the network, and if not, why. Never waits for anything."""

from __future__ import annotations

import dataclasses
import json
import os
import sqlite3
import sys
from typing import TYPE_CHECKING

import grpc

from cri import VERSION
from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cri.rpc.services import Services
    from cri.trace import Timeline


async def status(services: Services, request: api.StatusRequest) -> api.StatusResponse:
    """Conditions, handlers, features; with `verbose` a JSON text for each topic."""
    network = services.network.status()
    user_namespaces = not services.runtime.user_namespace_refusal
    return api.StatusResponse(
        status=api.RuntimeStatus(
            conditions=[
                api.RuntimeCondition(type="RuntimeReady", status=True),
                api.RuntimeCondition(
                    type="NetworkReady",
                    status=network.ready,
                    reason=network.reason,
                    message=network.message,
                ),
            ]
        ),
        runtime_handlers=[
            api.RuntimeHandler(
                name=name,
                features=api.RuntimeHandlerFeatures(
                    recursive_read_only_mounts=handler.recursive_read_only,
                    user_namespaces=handler.user_namespaces and user_namespaces,
                ),
            )
            for name, handler in services.handlers.items()
        ],
        features=api.RuntimeFeatures(
            supplemental_groups_policy=True,
            user_namespaces_host_network=user_namespaces,
            mount_options=True,
        ),
        info=_info(services) if request.verbose else {},
    )


def _info(services: Services) -> dict[str, str]:
    """Topic -> JSON text."""
    topics: Mapping[str, object] = {
        "config": dataclasses.asdict(services.config),
        "versions": {
            "podwright": VERSION,
            "python": sys.version.partition(" ")[0],
            "grpc": grpc.__version__,
            "sqlite": sqlite3.sqlite_version,
            "kernel": os.uname().release,
        },
        "user_namespaces": {"refusal": services.runtime.user_namespace_refusal},
        "selinux": dataclasses.asdict(services.selinux),
        "network": dataclasses.asdict(services.network.status()),
        "nri": services.nri.describe(),
        "images": {
            "count": len(services.images.list()),
            "usage": dataclasses.asdict(services.images.usage()),
            "pulls": [dataclasses.asdict(pull) for pull in services.images.pulls()],
        },
        "records": {
            "sandboxes": len(services.store.sandboxes),
            "containers": len(services.store.containers),
            "under_way": [dataclasses.asdict(one) for one in services.flights.under_way()],
        },
        "streams": {"open": services.streams.open_streams},
        "latency": _latency(services.recorder.recent(limit=1000)),
    }
    return {topic: json.dumps(value, indent=2) for topic, value in topics.items()}


def _latency(timelines: tuple[Timeline, ...]) -> dict[str, object]:
    """Of the latest RPCs, by name: how many, median and worst milliseconds, how many failed."""
    names = sorted({timeline.rpc for timeline in timelines})
    summary: dict[str, object] = {}
    for name in names:
        done = [t for t in timelines if t.rpc == name and t.code]
        if done:
            durations = sorted(t.duration / 1e6 for t in done)
            summary[name] = {
                "count": len(done),
                "median_ms": round(durations[len(durations) // 2], 3),
                "max_ms": round(durations[-1], 3),
                "failed": sum(t.code != "OK" for t in done),
            }
    return summary
