"""Runtimes, one of which a pod's RuntimeClass chooses: what the daemon does to have them start a
container. What the pod's monitor does for it is in `runtime.monitor`, its `oci` and its `shim`.

    face.py       what all of them have in common
    embedded.py   the runtime that podwright is
    oci_cli.py    any binary with the OCI command line: runc, crun, runsc
    shim_v2.py    one of containerd's shims, which is how Kata runs
    features.py   what a binary says that it can do
"""
