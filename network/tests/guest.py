"""A process in a network namespace of its own, which does what a test tells it to.

Run as a program (`unshare -n python -I -S guest.py FD`): it hands over descriptors of its namespace
and of a netlink socket in it, as a pod's monitor does, then answers one JSON line for each. Only
the standard library, and little of it: tests start many.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
import time

_ETH_IP = b"\x08\x00"


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def tcp_serve(port: int) -> None:
    """Answers each connection with the address from which it seems to come."""
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve() -> None:
        while True:
            peer, where = listener.accept()
            with peer:
                peer.sendall(where[0].encode())

    threading.Thread(target=serve, daemon=True).start()


def udp_serve(port: int, address: str = "0.0.0.0", word: str = "") -> None:
    """Answers each datagram with the address from which it seems to come, or with `word`."""
    server = socket.socket(_family(address), socket.SOCK_DGRAM)
    server.bind((address, port))

    def serve() -> None:
        while True:
            _, where = server.recvfrom(2000)
            server.sendto((word or where[0]).encode(), where)

    threading.Thread(target=serve, daemon=True).start()


def tcp_ask(address: str, port: int) -> str:
    """What a tcp_serve answers, or the name of the error."""
    try:
        with socket.create_connection((address, port), timeout=3) as peer:
            return peer.recv(100).decode().removeprefix("::ffff:")
    except OSError as error:
        return type(error).__name__


def udp_ask(address: str, port: int, source_port: int = 0, wait: float = 1.0) -> str:
    """What a udp_serve answers, or the name of the error."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        client.settimeout(wait)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.bind(("", source_port))
        try:
            client.connect((address, port))
            client.send(b"?")
            return client.recv(100).decode()
        except OSError as error:
            return type(error).__name__


def udp_send(address: str, port: int, size: int, count: int) -> None:
    """Datagrams that nobody answers."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as client:
        for _ in range(count):
            client.sendto(bytes(size), (address, port))


def ping(address: str, count: int = 1, wait: float = 3.0) -> list[float]:
    """Seconds of each round trip; as many as came back."""
    version6 = ":" in address
    protocol = 58 if version6 else 1
    request, answer = (128, 129) if version6 else (8, 0)
    times = []
    with socket.socket(_family(address), socket.SOCK_RAW, protocol) as peer:
        for number in range(count):
            head = struct.pack(">BBHHH", request, 0, 0, os.getpid() & 0xFFFF, number)
            if not version6:  # for ICMPv6 the kernel does it
                checksum = sum(struct.unpack(">4H", head))
                checksum = (checksum & 0xFFFF) + (checksum >> 16)
                head = head[:2] + struct.pack(">H", ~checksum & 0xFFFF) + head[4:]
            start = time.monotonic()
            try:
                peer.sendto(head, (address, 0))
            except OSError:
                continue
            while (left := start + wait - time.monotonic()) > 0:
                if not select.select([peer], [], [], left)[0]:
                    break
                data = peer.recv(2000)
                data = data if version6 else data[20:]
                if data[0] == answer and data[4:8] == head[4:8]:
                    times.append(time.monotonic() - start)
                    break
    return times


def send_to_loopback_of(mac: str, source: str, port: int) -> None:
    """A UDP datagram to 127.0.0.1, put on the wire to the node's bridge by hand."""
    payload = b"let me in"
    udp = struct.pack(">HHHH", 4000, port, 8 + len(payload), 0) + payload
    ip = struct.pack(
        ">BBHHHBBH4s4s",
        0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0,
        socket.inet_aton(source), socket.inet_aton("127.0.0.1"),
    )  # fmt: skip
    checksum = sum(struct.unpack(">10H", ip))
    checksum = (checksum & 0xFFFF) + (checksum >> 16)
    ip = ip[:10] + struct.pack(">H", ~checksum & 0xFFFF) + ip[12:]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
        wire.bind(("eth0", 0))
        own = wire.getsockname()[4]
        wire.send(bytes.fromhex(mac.replace(":", "")) + own + _ETH_IP + ip + udp)


def run(*command: str) -> str:
    """A command's output."""
    with os.popen(" ".join(command) + " 2>&1") as output:
        return output.read()


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    netns = os.open("/proc/self/ns/net", os.O_RDONLY)
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    socket.send_fds(channel, [b"{}"], [netns, netlink.fileno()])
    os.close(netns)
    netlink.close()
    lines = channel.makefile("rw")
    for line in lines:
        name, positional, named = json.loads(line)
        try:
            answer = {"answer": globals()[name](*positional, **named)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the test is to see it
            answer = {"error": repr(error)}
        lines.write(json.dumps(answer) + "\n")
        lines.flush()


if __name__ == "__main__":
    main()
