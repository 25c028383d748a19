"""A publisher that does not look at what it publishes: ``careless_publisher.py DATA_DIR NETWORK``.

A node like any other, but that ``submit`` takes the model and the inputs (canonical bundles, one a
file) as they are, where the real one would refuse them. So strangers' volunteers get to see them.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2pfleet.app import RunningNode, SubmitRequest
from p2pfleet.cli.embedded import with_node
from p2pfleet.config.node_file import load_config
from p2pfleet.core.model.ids import Digest, NetworkId, PeerId, cid_of, sha256
from p2pfleet.core.model.job import Exact, Limits, UnitInput, UnitTable
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Manifest
from p2pfleet.ports import Packs
from p2pfleet.publishing import Draft, Pin
from p2pfleet.submission import stop_of


async def prepare_unseen(
    request: SubmitRequest,
    *,
    packs: Packs,
    network: NetworkId,
    publisher: PeerId,
    wall_ms: int,
    pin: Pin,
    crowd: Callable[[], int],
    snapshot: bytes | None,
) -> Draft:
    """The manifest and its blobs, whatever is in them."""
    model, *members = _read([request.model, *request.inputs])
    units, offset = [], 0
    for member in members:
        units.append(UnitInput(0, offset, len(member), Digest(sha256(member))))
        offset += len(member)
    pack = b"".join(members)
    table = UnitTable((cid_of(pack),), tuple(units))
    blobs = (model, encode(table), pack)
    pin([cid_of(blob) for blob in blobs])
    for blob in blobs:
        packs.add(blob)
    manifest = Manifest(
        network=network,
        publisher=publisher,
        name=request.name,
        model=cid_of(model),
        model_bytes=len(model),
        table=cid_of(encode(table)),
        table_bytes=len(encode(table)),
        units=len(units),
        total_bytes=offset,
        limits=Limits(
            memory_bytes=request.memory_mb * 2**20,
            cpu_ms=round(request.cpu_s * 1000),
            output_bytes=request.output_mb * 2**20,
        ),
        comparison=Exact(),
        stop=stop_of(request),
        shards=1,
        lease_ms=round(request.lease_s * 1000),
        issued_ms=wall_ms,
        expires_ms=wall_ms + 3600 * 1000,
        salt=secrets.token_bytes(16),
    )
    return Draft(manifest, tuple(map(cid_of, blobs)), tuple(map(str, range(len(units)))))


def _read(paths: list[str]) -> list[bytes]:
    return [Path(path).read_bytes() for path in paths]


def main() -> None:
    data_dir, network = map(Path, sys.argv[1:])
    config = load_config(
        None,
        data_dir=data_dir,
        network=network,
        listen=["/ip4/127.0.0.1/tcp/0"],
        roles=("publisher",),
    )

    async def serve(node: RunningNode) -> None:
        unseen: Any = partial(prepare_unseen, packs=node._packs)
        node._submitter.prepare = unseen
        await trio.sleep_forever()

    with_node(config, serve)


if __name__ == "__main__":
    main()
