"""Tests of a node that systemd runs: see README.md."""
