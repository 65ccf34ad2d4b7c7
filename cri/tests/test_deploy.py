"""What deploy/ hands out agrees with the code."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from cri.cli.client import DEFAULT_ADDRESS
from cri.cli.config import default_text
from cri.config import Config, load

DEPLOY = Path(__file__).parents[2] / "deploy"


def test_the_configuration_file_is_what_the_code_says_of_its_keys() -> None:
    remedy = "write it anew: podwright config default > deploy/podwright.toml"
    assert (DEPLOY / "podwright.toml").read_text() == default_text() + "\n", remedy


def test_the_files_together_are_a_configuration_with_the_built_in_network(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "podwright.toml", tmp_path)
    assert load(tmp_path / "podwright.toml") == Config()
    shutil.copytree(DEPLOY / "conf.d", tmp_path / "conf.d")
    assert load(tmp_path / "podwright.toml").network.enabled


def test_crictl_and_kubeadm_are_told_the_daemons_address() -> None:
    crictl = yaml.safe_load((DEPLOY / "crictl.yaml").read_text())
    assert {crictl["runtime-endpoint"], crictl["image-endpoint"]} == {DEFAULT_ADDRESS}
    documents = list(yaml.safe_load_all((DEPLOY / "kubeadm-config.yaml").read_text()))
    nodes = [one for one in documents if "nodeRegistration" in one]
    assert nodes
    assert {one["nodeRegistration"]["criSocket"] for one in nodes} == {DEFAULT_ADDRESS}


def test_runtime_classes_have_room_for_a_monitor_and_are_scheduled_to_nodes_that_know_them() -> (
    None
):
    for one in yaml.safe_load_all((DEPLOY / "runtimeclasses.yaml").read_text()):
        assert one["kind"] == "RuntimeClass"
        assert one["overhead"]["podFixed"]["memory"]
        label = f"podwright.io/handler-{one['handler']}"
        assert one["scheduling"]["nodeSelector"] == {label: "true"}
