"""What a network is made of, after the CNI plugins of the same names: add and delete, apart.

Each takes plain values and the channels it needs, keeps no state but on disk or in the kernel, and
deletes idempotently. They don't know each other; who uses them decides the order.
"""
