"""deploy/nodes.py against a small API server, which keeps what it is given as a real one does."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

SCRIPT = Path(__file__).parents[2] / "deploy" / "nodes.py"
CLASSES = "/apis/node.k8s.io/v1/runtimeclasses"
NODE = "/api/v1/nodes/n1"
Json = dict[str, Any]


def script() -> Any:
    spec = importlib.util.spec_from_file_location("deploy_nodes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nodes = script()


def merged(old: Json, change: Json) -> Json:
    """A merge patch: null removes."""
    new = dict(old)
    for key, value in change.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            new[key] = merged(new.get(key) or {}, value)
        else:
            new[key] = value
    return new


class ApiServer:
    """Objects by path. Knows reading, creating and patching; everything else is 405."""

    def __init__(self) -> None:
        self.objects: dict[str, Json] = {}
        self.writes = 0
        server = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, code: int, body: Json) -> None:
                data = json.dumps(body).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def body(self) -> Json:
                made: Json = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                return made

            def do_GET(self) -> None:
                found = server.objects.get(self.path)
                status = {"kind": "Status", "code": 404, "reason": "NotFound"}
                self.answer(200 if found else 404, found or status)

            def do_POST(self) -> None:
                made = self.body()
                path = f"{self.path}/{made['metadata']['name']}"
                if path in server.objects:
                    self.answer(409, {"kind": "Status", "code": 409, "reason": "AlreadyExists"})
                    return
                server.objects[path] = made
                server.writes += 1
                self.answer(201, made)

            def do_PATCH(self) -> None:
                assert "patch+json" in self.headers["Content-Type"]
                changed = merged(server.objects[self.path], self.body())
                server.objects[self.path] = changed
                server.writes += 1
                self.answer(200, changed)

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@pytest.fixture
def server() -> Iterator[ApiServer]:
    server = ApiServer()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fine"}
    server.objects[NODE] = {
        "kind": "Node",
        "metadata": {"name": "n1", "labels": {"zone": "a", "podwright.io/handler-gone": "true"}},
        "status": {"conditions": [ready]},
    }
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def cluster(server: ApiServer) -> Iterator[Any]:
    address = f"http://127.0.0.1:{server.http.server_port}"
    with client.ApiClient(client.Configuration(host=address)) as connection:
        yield nodes.Cluster(connection)


def test_classes_are_made_and_a_second_time_nothing_is_written(
    server: ApiServer, cluster: Any
) -> None:
    assert cluster.ensure_class("runc") == "RuntimeClass runc created"
    made = server.objects[f"{CLASSES}/runc"]
    assert made["handler"] == "runc"
    assert made["scheduling"]["nodeSelector"] == {"podwright.io/handler-runc": "true"}
    cluster.label("n1", ["runc"])
    before = server.writes
    assert cluster.ensure_class("runc") == "RuntimeClass runc is as it should be"
    assert cluster.label("n1", ["runc"]) == "node n1 has its labels"
    assert server.writes == before


def test_a_class_that_differs_is_changed(server: ApiServer, cluster: Any) -> None:
    cluster.ensure_class("runc")
    server.objects[f"{CLASSES}/runc"]["overhead"] = {"podFixed": {"memory": "1Gi"}}
    assert cluster.ensure_class("runc") == "RuntimeClass runc changed"
    assert server.objects[f"{CLASSES}/runc"]["overhead"]["podFixed"]["memory"] == "6Mi"


def test_a_class_of_another_handler_is_left_alone_and_named(
    server: ApiServer, cluster: Any
) -> None:
    cluster.ensure_class("runc")
    server.objects[f"{CLASSES}/runc"]["handler"] = "other"
    with pytest.raises(ValueError, match="has the handler other"):
        cluster.ensure_class("runc")


def test_labels_follow_the_handlers_and_others_stay(server: ApiServer, cluster: Any) -> None:
    cluster.label("n1", ["podwright", "runc"])
    assert server.objects[NODE]["metadata"]["labels"] == {
        "zone": "a",
        "podwright.io/handler-podwright": "true",
        "podwright.io/handler-runc": "true",
    }


def test_what_is_wrong_with_a_node_is_told_in_its_own_words(
    server: ApiServer, cluster: Any
) -> None:
    assert cluster.await_ready("n1", 0) == ""
    (ready,) = server.objects[NODE]["status"]["conditions"]
    ready |= {"status": "False", "reason": "KubeletNotReady", "message": "no CNI configuration"}
    assert cluster.await_ready("n1", 0) == "KubeletNotReady: no CNI configuration"
    server.objects[NODE]["status"]["conditions"] = []
    assert "not reported" in cluster.await_ready("n1", 0)


def test_classes_are_those_that_deploy_shows() -> None:
    for shown in yaml.safe_load_all((SCRIPT.parent / "runtimeclasses.yaml").read_text()):
        assert nodes.runtime_class(shown["handler"]) == shown
