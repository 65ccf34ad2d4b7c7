"""Exec, attach and port forwarding: what kubelet and crictl stream over HTTP."""
