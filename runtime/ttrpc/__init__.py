"""ttrpc: calls over a stream between processes of one machine, as shims and NRI speak it.

    wire.py   frames out of bytes, bytes out of frames
    calls.py  who asked what: the client's end and the server's, neither of which reads or writes
    aio.py    both ends for asyncio, over anything that carries bytes

Unary calls only; a call that wants to stream is refused by name. Source: containerd/ttrpc,
PROTOCOL.md. Of use to others too: nothing here knows of pods.
"""
