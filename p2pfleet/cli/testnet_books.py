"""What the publisher's store says of a scenario's job once every process is gone."""

from __future__ import annotations

from collections.abc import Sequence

from p2pfleet.cli.local_network import LocalNetwork
from p2pfleet.cli.testnet_apart import Apart, StoredBooks
from p2pfleet.cli.testnet_condition import Condition
from p2pfleet.cli.testnet_scenario import NetworkScenario
from p2pfleet.cli.testnet_waste import waste
from p2pfleet.core.model.ids import parse_job


def judge_books(
    plan: NetworkScenario, network: LocalNetwork, job_text: str, apart: Sequence[Apart]
) -> list[Condition]:
    """How many executions were for nothing, and what became of what sides certified apart."""
    if plan.expect.wasted_max is None and not apart:
        return []
    from p2pfleet.adapters.store import SqliteStore
    from p2pfleet.core.wire.verified import VerifiedFrame, VerifiedManifest
    from p2pfleet.runtime.signing import open_sealed

    job = parse_job(job_text)
    publisher = next(node.number for node in network.nodes if node.publisher)
    store = SqliteStore.open(network.folder(publisher) / "node.sqlite")
    try:
        stored = store.job(job)
        opened = [open_sealed(sealed) for sealed in store.job_frames(job)]
    finally:
        store.close()
    assert stored is not None
    manifest = open_sealed(stored.manifest)
    assert isinstance(manifest, VerifiedManifest)
    frames = [
        each.frame
        for each in opened
        if isinstance(each, VerifiedFrame) and each.author != manifest.manifest.publisher
    ]
    found = []
    most = plan.expect.wasted_max
    if most is not None:
        seen = waste(frames, manifest.manifest.units * (plan.job.quorum or 1), plan.slots)
        found.append(
            Condition(
                f"at most {most:.0%} of all executions were wasted",
                seen.share <= most,
                f"{seen.share:.1%}: {seen.finished} were finished and {seen.cut_off} cut off, "
                f"where {seen.needed} were needed",
            )
        )
    ledger = StoredBooks(network.folder, job).ledger(publisher)
    for each in apart:
        found += each.judge(ledger, frames)
    return found
