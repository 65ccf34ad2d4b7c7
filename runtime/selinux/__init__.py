"""SELinux: what a label is, what the node's policy says of containers, and relabelling of files.

`node` asks the kernel, `label` is pure, `relabel` changes files. What labels a process is a step of
init (`runtime.init.security`), and what labels a file system is a parameter of its mount.
"""
