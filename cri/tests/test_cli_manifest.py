"""A Pod manifest is read strictly, and what is not used is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from cri.cli.pod import ignored, manifest, quantity
from cri.cli.pod.manifest import Fields, ManifestError

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
    - name: a
      image: busybox
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        manifest.parse(text, "pod.yaml")
    return caught.value.message.splitlines()


def test_an_unknown_field_is_an_error_with_its_line_and_what_was_meant() -> None:
    assert problems(POD + "      imagePullPolice: Never\n") == [
        "pod.yaml:9: spec.containers[0].imagePullPolice: unknown field;"
        " did you mean imagePullPolicy?"
    ]


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    told = problems(POD.replace("metadata: {name: web}", "metadata: {nam: web}") + "  foo: 1\n")
    assert [line.split(": ")[1] for line in told] == ["metadata.nam", "spec.foo"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("      stdin: 1", "true or false is expected, got '1'"),
        ("      command: sleep", "a list is expected, got 'sleep'"),
        ("      workingDir: [a]", "a string is expected, got a list"),
        ("      workingDir: 1", "a string is expected, got '1': write \"1\" with quotes"),
        ("      env: {a: b}", "a list is expected, got a mapping"),
        ("      ports: [{containerPort: '80'}]", "an integer is expected, got '80'"),
        ("      resources: {limits: {cpu: [1]}}", "a quantity such as 500m or 64Mi is expected"),
    ],
)
def test_a_wrong_type_is_an_error_that_says_both_types(line: str, said: str) -> None:
    (problem,) = problems(POD + line + "\n")
    assert problem.startswith("pod.yaml:9: ")
    assert said in problem


def test_a_field_that_is_there_twice_is_an_error() -> None:
    assert "this field is there twice" in problems(POD + "      image: other\n")[0]


def test_anchors_and_merge_keys_work_and_an_override_is_no_double() -> None:
    pod = manifest.parse(
        POD.replace("    - name: a", "    - &a\n      name: a") + "    - <<: *a\n      name: b\n",
        "pod.yaml",
    )
    containers = pod.inner("spec").each("containers")
    assert [(c.text("name"), c.text("image")) for c in containers] == [
        ("a", "busybox"),
        ("b", "busybox"),
    ]


def test_a_number_is_a_quantity() -> None:
    pod = manifest.parse(POD + "      resources: {limits: {cpu: 2, memory: 1.5Gi}}\n", "x")
    limits = pod.inner("spec").each("containers")[0].inner("resources").table("limits")
    assert limits == {"cpu": "2", "memory": "1.5Gi"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "kind: a Pod is expected, got nothing"),
        ("- a", "a mapping is expected, got a list"),
        ("apiVersion: apps/v1\nkind: Deployment", "a Pod is expected, got Deployment"),
        ("a: b: c", "mapping values are not allowed here"),
        (POD + "---" + POD, "there are several documents in the file"),
        ("a: &x [*x]", "unknown field"),
    ],
)
def test_what_is_no_pod_is_refused_with_a_reason(text: str, said: str) -> None:
    assert said in "\n".join(problems(text))


def test_json_is_read_too() -> None:
    pod = manifest.parse('{"kind": "Pod", "metadata": {"name": "web"}}', "pod.json")
    assert pod.inner("metadata").text("name") == "web"


def test_fields_that_nobody_read_are_listed_by_the_root_of_what_was_not_read() -> None:
    fields = Fields("", {}, {"a": {"b": 1, "c": 2}, "d": {"e": 1}, "f": [{"g": 1, "h": 2}]})
    fields.inner("a").number("b")
    fields.each("f")[0].number("g")
    assert list(fields.unread()) == ["a.c", "d", "f[0].h"]


def test_a_reason_is_found_by_the_last_name_of_a_path() -> None:
    assert "kubelet" in ignored.reason("spec.containers[0].livenessProbe")
    assert "scheduler" in ignored.reason("spec.tolerations[1]")
    assert ignored.reason("spec.os") == "podwright run does not use it"


@pytest.mark.parametrize(
    ("text", "thousandths"),
    [("1", 1000), ("500m", 500), ("0.1", 100), ("1e3", 1_000_000), ("2k", 2_000_000),
     ("1Ki", 1_024_000), ("1.5Mi", 1_572_864_000), ("1u", 1), (".5", 500)],
)  # fmt: skip
def test_a_quantity_is_a_number(text: str, thousandths: int) -> None:
    assert quantity.milli(text) == thousandths


@pytest.mark.parametrize("text", ["", "one", "1 Gi", "1GiB", "--1", "1e", "0x10"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity.parse(text)


def test_the_example_pod_is_read_without_a_problem() -> None:
    path = Path(__file__).parents[2] / "e2e/pods/hello.yaml"
    containers = manifest.read(path).inner("spec").each("containers")
    assert [container.text("name") for container in containers] == ["server", "client"]
