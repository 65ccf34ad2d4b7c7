"""Devices by name: the Container Device Interface, whose files say what a device means.

    spec.py       a file's text -> Spec, or what is wrong with it; pure
    registry.py   the directories -> which file a device's name belongs to
    injection.py  devices -> what a container gets: looks at the node's device nodes

A container asks for `vendor.com/class=name`; the file that has the device says which environment,
device nodes, mounts and groups go with it. Everything here blocks: it runs in a worker.
https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md
"""
