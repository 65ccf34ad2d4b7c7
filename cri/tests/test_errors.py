"""Errors: each class has its status, and kubelet finds the prefixes that it looks for."""

from __future__ import annotations

import errno
import inspect

import pytest
from grpc import StatusCode

import image.errors
import network.errors
import runtime.errors
from cri import errors
from cri.errors import STATUS, message_of, status_of


def _classes(module: object) -> list[type[BaseException]]:
    return [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, BaseException) and cls.__module__ == getattr(module, "__name__", "")
    ]


@pytest.mark.parametrize("module", [errors, image.errors, network.errors, runtime.errors])
def test_every_failure_of_a_package_has_a_status(module: object) -> None:
    roots = {"CriFault", "ImageFault", "NetworkFault", "RuntimeFault"}
    unmapped = [cls.__name__ for cls in _classes(module) if not set(cls.__mro__) & set(STATUS)]
    assert set(unmapped) <= roots


def test_no_failure_looks_like_a_daemon_that_is_not_there() -> None:
    assert StatusCode.UNAVAILABLE not in {status.code for status in STATUS.values()}


def test_the_nearest_class_wins() -> None:
    assert status_of(errors.StateDiskFull("x")).code is StatusCode.RESOURCE_EXHAUSTED
    assert status_of(errors.StateNotWritten("x")).code is StatusCode.ABORTED


def test_what_is_not_listed_is_a_fault_of_ours() -> None:
    assert status_of(KeyError("x")).code is StatusCode.INTERNAL
    assert status_of(OSError(errno.EACCES, "x")).code is StatusCode.INTERNAL


def test_a_full_disk_is_told_as_such() -> None:
    assert status_of(OSError(errno.ENOSPC, "x")).code is StatusCode.RESOURCE_EXHAUSTED


def test_kubelet_finds_its_prefix() -> None:
    error = image.errors.RegistryUnavailable("no route to registry.example")
    status = status_of(error)
    assert status.code is StatusCode.UNKNOWN
    assert message_of(error, status) == "RegistryUnavailable: no route to registry.example"
    volume = errors.ImageVolumeFailed("ImageVolumeMountFailed: no such path")
    assert message_of(volume, status_of(volume)) == "ImageVolumeMountFailed: no such path"


def test_what_was_not_undone_is_told_with_the_error() -> None:
    error = errors.WrongState("not ready")
    error.add_note("not undone: unmount: busy")
    assert message_of(error, status_of(error)) == "not ready; not undone: unmount: busy"


def test_an_error_without_text_is_told_by_its_name() -> None:
    assert message_of(TimeoutError(), status_of(TimeoutError())) == "TimeoutError"
