# ruff: noqa: E501  # names are the suite's own
"""Specs that are left out, by name, each with its reason. Every other spec has to pass."""

from __future__ import annotations

from runtime.apparmor import profiles

NO_APPARMOR = (
    "AppArmor runtime should prefer new apparmor field should enforce a apparmor_profile blocking writes",
    "AppArmor runtime should prefer new apparmor field should fail with an unloaded apparmor_profile",
    "AppArmor runtime should prefer new apparmor field should work with apparmor profile",
    "AppArmor runtime should support apparmor field should enforce a apparmor_profile blocking writes",
    "AppArmor runtime should support apparmor field should enforce a permissive deprecated profile",
    "AppArmor runtime should support apparmor field should fail with an unloaded apparmor_profile",
    "AppArmor runtime should support deprecated apparmor_profile field should enforce a apparmor_profile blocking writes",
    "AppArmor runtime should support deprecated apparmor_profile field should enforce a permissive deprecated profile",
    "AppArmor runtime should support deprecated apparmor_profile field should fail with an unloaded apparmor_profile",
)

OFFLINE = {
    "Image Manager public image with digest should be pulled and removed [Conformance]": "it pulls "
    "a public image by its digest, and nobody but its maker can make that image",
}

STANDALONE_SHELL = {
    "Security Context bucket runtime should support MaskedPaths": "the shell of this busybox runs "
    "its applets without exec, so masking /bin/ls hides nothing: a fuller one is named by "
    "PODWRIGHT_CRITEST_BUSYBOX",
}


def reasons(*, standalone_shell: bool) -> dict[str, str]:
    """Name -> reason. `standalone_shell`: what the images' busybox does (see images.py)."""
    apparmor = () if profiles.enabled() else NO_APPARMOR
    later = dict.fromkeys(apparmor, "this kernel has no AppArmor")
    return {**later, **OFFLINE, **(STANDALONE_SHELL if standalone_shell else {})}
