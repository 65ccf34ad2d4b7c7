"""Our api.proto says on the wire exactly what CRI v1 says."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from cri.api import api_pb2 as api

if TYPE_CHECKING:
    from google.protobuf import descriptor as pb

WIRE = json.loads(resources.files("cri.tests").joinpath("cri-v1-wire.json").read_text())
FILE = api.DESCRIPTOR


def _type_name(field: pb.FieldDescriptor) -> str:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = field.message_type.fields
        return f"map<{_type_name(key)}, {_type_name(value)}>"
    if field.message_type is not None:
        name = field.message_type.full_name.removeprefix("runtime.v1.")
    elif field.enum_type is not None:
        name = field.enum_type.full_name.removeprefix("runtime.v1.")
    else:
        kind = FieldDescriptorProto.Type.ValueType(field.type)
        name = FieldDescriptorProto.Type.Name(kind).removeprefix("TYPE_").lower()
    return f"repeated {name}" if field.is_repeated else name


def _field(field: pb.FieldDescriptor) -> list[object]:
    said: list[object] = [field.number, field.name, _type_name(field)]
    return [*said, "deprecated"] if field.GetOptions().deprecated else said


def _enums() -> dict[str, pb.EnumDescriptor]:
    nested = {
        f"{message.name}.{enum.name}": enum
        for message in FILE.message_types_by_name.values()
        for enum in message.enum_types
    }
    return {**FILE.enum_types_by_name, **nested}


def test_the_package_is_cri_v1() -> None:
    assert FILE.package == WIRE["package"]


def test_no_message_enum_or_service_is_missing_or_invented() -> None:
    assert set(FILE.message_types_by_name) == set(WIRE["messages"])
    assert set(_enums()) == set(WIRE["enums"])
    assert set(FILE.services_by_name) == set(WIRE["services"])


@pytest.mark.parametrize("name", sorted(WIRE["messages"]))
def test_a_message_has_the_fields_of_the_wire(name: str) -> None:
    ours = [_field(field) for field in FILE.message_types_by_name[name].fields]
    assert sorted(ours, key=str) == sorted(WIRE["messages"][name], key=str)


@pytest.mark.parametrize("name", sorted(WIRE["enums"]))
def test_an_enum_has_the_values_of_the_wire(name: str) -> None:
    ours = {value.name: value.number for value in _enums()[name].values}
    assert ours == WIRE["enums"][name]


@pytest.mark.parametrize("name", sorted(WIRE["services"]))
def test_a_service_has_the_methods_of_the_wire(name: str) -> None:
    ours = {
        method.name: [
            ("stream " if method.client_streaming else "") + method.input_type.name,
            ("stream " if method.server_streaming else "") + method.output_type.name,
        ]
        for method in FILE.services_by_name[name].methods
    }
    assert ours == WIRE["services"][name]


def test_the_generated_code_is_what_make_proto_makes_of_the_proto(tmp_path: Path) -> None:
    top = Path(api.__file__).parents[2]
    program = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={top}"]
    made = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}", "cri/api/api.proto"]
    subprocess.run([*program, *made], check=True)
    for name in ("api_pb2.py", "api_pb2.pyi"):
        assert (tmp_path / "cri/api" / name).read_bytes() == (top / "cri/api" / name).read_bytes()
