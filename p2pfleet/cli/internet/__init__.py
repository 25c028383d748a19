"""An internet on one machine: hosts in network namespaces, weather and NAT between them.

Needs root, and of the kernel: network namespaces, TUN devices and, for NAT, nftables; no program
and no library. testnet/README.md says how it is built and why.
"""

from p2pfleet.cli.internet.internet import Host, Internet, Router, Traffic, obstacle, sweep
from p2pfleet.cli.internet.weather import CLEAR, Weather

__all__ = ["CLEAR", "Host", "Internet", "Router", "Traffic", "Weather", "obstacle", "sweep"]
