"""Which connections are forgotten, and which are not; `conntrack -L` is the witness."""

from __future__ import annotations

from ipaddress import ip_address

from network import conntrack
from network.netlink.channel import NETLINK_NETFILTER, Channel
from network.tests.lab import in_a_node, run

FLOWS = [  # protocol, client, server, destination port, who answers
    ("udp", "192.0.2.2", "192.0.2.1", 53, "10.87.0.2"),
    ("udp", "192.0.2.3", "192.0.2.1", 53, "10.87.0.3"),
    ("udp", "192.0.2.2", "192.0.2.1", 54, "10.87.0.2"),
    ("tcp", "192.0.2.2", "192.0.2.1", 53, "10.87.0.2"),
    ("udp", "2001:db8::2", "2001:db8::1", 53, "fd00:87::2"),
    ("udp", "2001:db8::3", "2001:db8::1", 55, "fd00:87::3"),
]
ALL = {0, 1, 2, 3, 4, 5}


def remaining() -> set[int]:
    """The flows that are still known, by their number: that is in their source port."""
    lines = (run("conntrack", "-L", "-f", family) for family in ("ipv4", "ipv6"))
    return {
        int(field.removeprefix("sport=")) - 1000
        for line in "".join(lines).splitlines()
        for field in line.split()
        if field.startswith("sport=1")
    }


def make_flows() -> None:
    for number, (protocol, client, server, port, pod) in enumerate(FLOWS):
        run(
            *["conntrack", "-I", "-p", protocol, "-t", "100"],
            *["-s", client, "-d", server, "--sport", str(1000 + number), "--dport", str(port)],
            *[
                "-r",
                pod,
                "-q",
                client,
                "--reply-port-src",
                str(port),
                "--reply-port-dst",
                str(1000 + number),
            ],
            *(["--state", "ESTABLISHED"] if protocol == "tcp" else []),
        )


CASES: list[
    tuple[int, list[int], str, set[int]]
] = [  # version, ports, pod, what is gone afterwards
    (4, [53], "", {0, 1}),
    (6, [53, 55], "", {4, 5}),
    (4, [53, 54, 55], "", {0, 1, 2}),
    (4, [56], "", set()),
    (4, [53], "10.87.0.2", {0}),
    (4, [53, 54, 55], "10.87.0.2", {0, 2}),
    (6, [53, 55], "fd00:87::2", {4}),
    (4, [53], "10.87.0.9", set()),
]


@in_a_node
def test_only_what_is_meant_is_forgotten() -> None:
    with Channel.open(NETLINK_NETFILTER) as channel:
        for case in CASES:
            version, ports, pod, gone = case
            run("conntrack", "-F")
            make_flows()
            assert remaining() == ALL, remaining()
            if pod:
                count = conntrack.forget_udp_answered_by(channel, ip_address(pod), ports)
            else:
                count = conntrack.forget_udp_to(channel, version, ports)
            assert remaining() == ALL - gone, (case, remaining())
            assert count == len(gone), case
