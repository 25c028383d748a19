"""Results folders for tests: jobs with real signatures, written as a publisher's node does it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Cid, Digest, PeerId, cid_of, sha256
from p2pfleet.core.model.job import Exact, FixedQuorum, Limits, StopRule, Trust
from p2pfleet.core.model.network import NetworkParameters, network_id
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import (
    Audit,
    Certificate,
    Frame,
    Manifest,
    OpenRingers,
    PeerChecks,
    Ringer,
    Sealed,
    Snapshot,
    VoteRef,
    job_id,
)
from p2pfleet.core.wire.tensors import Tensor, digest_of, encode_bundle
from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedSnapshot
from p2pfleet.ports import Packs, Store, StoredJob
from p2pfleet.results import REPORT, write_results
from p2pfleet.runtime.signing import Signer
from p2pfleet.verify import Verification, verify_results
from tests.votes import Booth

SIGNERS = {
    name: Signer(sha256(name.encode()))
    for name in ("publisher", "alice", "bob", "carol", "dave", "mallory")
}
PUBLISHER, ALICE, BOB, CAROL, DAVE, MALLORY = (one.peer for one in SIGNERS.values())
PARAMETERS = NetworkParameters("forgery", True)
UNITS = 6
SECRET = sha256(b"secret of the ringers")


def output(text: str) -> bytes:
    """A canonical output bundle."""
    data = text.encode()
    return encode_bundle((Tensor("answer", "uint8", (len(data),), data),))


GOOD, BAD, CLOSE = output("good"), output("bad"), output("close to good")


class Folder:
    """A job at its publisher: votes are cast in ``booth``, rows are the ledger."""

    def __init__(
        self,
        stop: StopRule | None = None,
        known: dict[PeerId, int] | None = None,
        comparison: Exact | Tolerance | None = None,
        ringers: Sequence[Ringer] = (),
        parameters: NetworkParameters = PARAMETERS,
    ) -> None:
        self.parameters = parameters
        network = network_id(parameters)
        self.saved: list[Sealed] = []
        self.snapshot: Digest | None = None
        if known is not None:
            self.snapshot = self.trusting(known)
        self.opened = OpenRingers(SECRET, tuple(ringers)) if ringers else None
        named = None if self.opened is None else Digest(ringers_hash(self.opened))
        self.manifest = Manifest(
            network=network,
            publisher=PUBLISHER,
            name="forged",
            model=cid_of(b"model"),
            model_bytes=5,
            table=cid_of(b"table"),
            table_bytes=5,
            units=UNITS,
            total_bytes=2,
            limits=Limits(2**20, 1000, 1000),
            comparison=comparison or Exact(),
            stop=stop or FixedQuorum(2, 5),
            shards=1,
            lease_ms=1000,
            issued_ms=1,
            expires_ms=2,
            salt=bytes(16),
            trust=Trust(snapshot=self.snapshot, ringers=named),
        )
        self.sealed = SIGNERS["publisher"].seal(self.manifest)
        self.job = job_id(self.sealed)
        self.booth = Booth(network, self.job, self._seal)
        self.rows: dict[int, tuple[str, bytes]] = {}
        self.outputs: dict[Cid, bytes] = {}

    @staticmethod
    def _seal(frame: Frame) -> VerifiedFrame:
        signer = next(one for one in SIGNERS.values() if one.peer == frame.author)
        return cast("VerifiedFrame", signer.signed(frame))

    def trusting(self, known: dict[PeerId, int], number: int = 1) -> Digest:
        """A trust snapshot of the publisher's, kept for the job; its name."""
        made = sealed_snapshot(known, number=number, network=network_id(self.parameters))
        self.saved.append(made)
        return Digest(made.hash)

    def certify(
        self,
        unit: int,
        votes: Sequence[VoteRef],
        against: Sequence[VoteRef] = (),
        audit: VoteRef | None = None,
        state: str = "settled",
        bundle: bytes = GOOD,
    ) -> Certificate:
        """Put a unit into the ledger."""
        made = Certificate(
            self.job, unit, digest_of(bundle), self.snapshot, tuple(votes), tuple(against), audit
        )
        self.rows[unit] = (state, encode(made))
        self.outputs[cid_of(bundle)] = bundle
        return made

    def settle(self, unit: int, voters: Sequence[PeerId] = (ALICE, BOB), **how: Any) -> Certificate:
        """A unit that these voters settled."""
        return self.certify(unit, self.booth.vote(voters, unit, how.get("bundle", GOOD)), **how)

    def word(self, unit: int, bundle: bytes = GOOD) -> VoteRef:
        """The publisher's own word on a unit."""
        return VoteRef(self.booth.write(PUBLISHER, Audit(unit, digest_of(bundle))).hash, 0)

    def open_ringers(self) -> None:
        """What the publisher says at the end."""
        assert self.opened is not None
        self.booth.write(PUBLISHER, self.opened)

    # ---- as a store, and as packs ------------------------------------------------------------

    def units(self, job: bytes) -> list[tuple[int, str, bytes]]:
        assert job == self.job
        return [(unit, *self.rows[unit]) for unit in sorted(self.rows)]

    def job_frames(self, job: bytes) -> list[Sealed]:
        assert job == self.job
        return [frame.sealed for frame in self.booth.frames.values()]

    def snapshots(self, job: bytes) -> list[Sealed]:
        assert job == self.job
        return list(self.saved)

    def read(self, cid: Cid) -> bytes:
        return self.outputs[cid]

    def write(self, folder: Path) -> dict[str, Any]:
        """The results folder of all this."""
        return write_results(
            folder,
            stored=StoredJob(self.job, self.sealed, True, "completed", None),
            names=tuple(f"unit {number}" for number in range(UNITS)),
            view={"id": self.job.hex()},
            network=self.parameters,
            store=cast("Store", self),
            packs=cast("Packs", self),
        )

    def verified(self, folder: Path, trust: VerifiedSnapshot | None = None) -> Verification:
        """Written, and verified."""
        self.write(folder)
        return verify_results(folder, trust)


def sealed_snapshot(
    known: dict[PeerId, int],
    number: int = 1,
    signer: str = "publisher",
    network: bytes | None = None,
    model_class: str = "any",
) -> Sealed:
    """A signed trust snapshot."""
    records = tuple(PeerChecks(who, known[who]) for who in sorted(known))
    name = network_id(PARAMETERS) if network is None else network
    body = Snapshot(name, SIGNERS[signer].peer, model_class, number, 1, records)  # type: ignore[arg-type]
    return SIGNERS[signer].seal(body)


def verified_snapshot(known: dict[PeerId, int], **changes: Any) -> VerifiedSnapshot:
    """The same, for ``--trust``."""
    sealed = sealed_snapshot(known, **changes)
    body = msgspec.msgpack.decode(sealed.body, type=Snapshot)
    return VerifiedSnapshot(sealed, Digest(sealed.hash), body)


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file, and its hash in the report: what a forger would do."""
    (folder / name).write_bytes(content)
    report = json.loads((folder / REPORT).read_text())
    report["files"][name] = sha256(content).hex()
    (folder / REPORT).write_text(json.dumps(report))
