"""bpf(2): loading a program and attaching it to a cgroup."""

from __future__ import annotations

import ctypes
import enum
import os
import struct

from runtime.linux.libc import Integer, Pointer, Unsigned, syscall

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_bpf = syscall("bpf", _NUMBERS.get(os.uname().machine, 280), Integer, Pointer, Unsigned)

_LICENSE = b"Apache-2.0\0"
_VERIFIER_LOG_BYTES = 64 * 1024


class Command(enum.IntEnum):
    """BPF_* commands of linux/bpf.h."""

    PROG_LOAD = 5
    PROG_ATTACH = 8


class ProgramType(enum.IntEnum):
    CGROUP_DEVICE = 15


class AttachType(enum.IntEnum):
    CGROUP_DEVICE = 6


BPF_F_ALLOW_MULTI = 2


def _call(command: Command, attributes: bytes) -> int:
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _bpf(command, ctypes.addressof(buffer), len(attributes))


def load(program: bytes, kind: ProgramType) -> int:
    """Loads a program (8 bytes an instruction); answers its descriptor.

    OSError whose text ends with the verifier's words.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    license_text = ctypes.create_string_buffer(_LICENSE)
    fields = (
        kind,
        len(program) // 8,
        ctypes.addressof(instructions),
        ctypes.addressof(license_text),
    )
    try:
        return _call(Command.PROG_LOAD, struct.pack("=IIQQIIQ", *fields, 0, 0, 0))
    except OSError as error:
        log = ctypes.create_string_buffer(_VERIFIER_LOG_BYTES)
        verbose = struct.pack("=IIQQIIQ", *fields, 1, len(log), ctypes.addressof(log))
        try:
            return _call(Command.PROG_LOAD, verbose)
        except OSError:
            words = log.value.decode("ascii", "replace").strip()
            raise OSError(error.errno, f"bpf(PROG_LOAD): {words or error.strerror}") from error


def attach(cgroup_fd: int, program_fd: int, kind: AttachType) -> None:
    """Attaches a program to a cgroup v2 directory, beside what its parents have."""
    _call(
        Command.PROG_ATTACH,
        struct.pack("=IIII", cgroup_fd, program_fd, kind, BPF_F_ALLOW_MULTI),
    )


def attach_device_program(directory: str, program: bytes) -> None:
    """Loads and attaches; the kernel detaches it when the cgroup is removed."""
    program_fd = load(program, ProgramType.CGROUP_DEVICE)
    try:
        cgroup_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(cgroup_fd, program_fd, AttachType.CGROUP_DEVICE)
        finally:
            os.close(cgroup_fd)
    finally:
        os.close(program_fd)
