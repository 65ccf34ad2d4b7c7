"""NetworkReady=false says which directory was looked at and what was found."""

from __future__ import annotations

from pathlib import Path

from network.config import NetworkSettings
from network.pod_network import PodNetwork
from network.status import absent


def settings(directory: Path) -> NetworkSettings:
    return NetworkSettings(
        enabled=False,
        state_dir=directory / "run",
        cni_conf_dir=directory / "net.d",
        cni_bin_dir=directory / "bin",
    )


def message(directory: Path) -> str:
    status = absent(settings(directory))
    assert not status.ready
    assert status.reason == "NetworkPluginNotReady"
    assert status.message.startswith(
        "Network plugin returns error: cni plugin not initialized: the built-in network is off"
    )
    return status.message


def test_missing_directories_are_named(tmp_path: Path) -> None:
    text = message(tmp_path)
    assert f"{tmp_path}/net.d does not exist" in text
    assert f"{tmp_path}/bin does not exist" in text


def test_an_empty_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "net.d" / "10-calico.conflist.bak").touch()
    assert f"{tmp_path}/net.d holds no *.conf, *.conflist, *.json" in message(tmp_path)


def test_what_was_found_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.d").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "net.d" / "10-calico.conflist").touch()
    for number in range(8):
        (tmp_path / "bin" / f"plugin{number}").touch()
    text = message(tmp_path)
    assert "net.d holds 10-calico.conflist, but this version" in text
    assert "plugin4 and 3 more" in text


def test_a_file_in_the_directorys_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "net.d").touch()
    assert f"{tmp_path}/net.d can't be read: Not a directory" in message(tmp_path)


async def test_the_status_follows_what_is_there(tmp_path: Path) -> None:
    network = PodNetwork(settings(tmp_path))
    await network.start(())
    try:
        assert "net.d does not exist" in network.status().message
        await network.collect(())  # comes after the look that the status has asked for
        (tmp_path / "net.d").mkdir()
        network.status()  # has it looked at again
        await network.collect(())
        assert "net.d holds no" in network.status().message
    finally:
        await network.close()
        await network.close()
