"""The Node Resource Interface: plugins that hear of pods and containers, and may change them.

listen.py      the socket, and the face for handlers; the rest is loaded by the first plugin
mux.py         two conversations on one connection, sans-IO; trunk.py reads and writes them
peer.py        one plugin: registered, configured, synchronized, asked, dropped
relay.py       all plugins, in their order: what each RPC tells and asks them
messages.py    our records as NRI's messages
owners.py      which plugin has set what; adjustments.py and updates.py merge what they want
spec.py        an adjustment applied to a spec
validator.py   what the node's configuration forbids
kit.py         for who writes plugins
"""
