"""One node in a process of its own: prints its address, then every change of its peers.

Usage: network_child.py NUMBER [BOOTSTRAP]... ; ends when its standard input does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parent))

from network_harness import node

from p2pfleet.core.model.ids import peer_text
from p2pfleet.ports import Announced, Connected, Disconnected


async def main() -> None:
    number, bootstrap = int(sys.argv[1]), tuple(sys.argv[2:])
    async with node(number, bootstrap) as network, trio.open_nursery() as nursery:
        print("address", network.addresses[0], flush=True)

        async def show() -> None:
            async for event in network.events:
                if isinstance(event, Connected):
                    print("connected", peer_text(event.peer), flush=True)
                elif isinstance(event, Disconnected):
                    print("disconnected", peer_text(event.peer), flush=True)
                elif isinstance(event, Announced):
                    print("announced", event.data.decode(), flush=True)

        nursery.start_soon(show)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()


trio.run(main)
