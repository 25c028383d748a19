"""Writes the vectors anew from p2pfleet's own code, with keys from fixed seeds.

    python protocol/vectors/generate.py [FOLDER]

The same code gives the same bytes. What stands in the vectors is decided by the chapters: a change
here that changes a file is a change of the protocol and travels with its chapter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import canonical
import closing
import crediting
import framing
import keeping
import outcomes
import parting
import polls
import refusals
import speaking
import trust
import verdicts
import votes


def main(arguments: list[str]) -> None:
    folder = Path(arguments[0]) if arguments else Path(__file__).parent
    for name, chapter, cases in (
        ("identities", "identity.md", canonical.identities()),
        ("networks", "identity.md", canonical.networks()),
        ("puzzles", "identity.md", verdicts.puzzles()),
        ("cids", "encoding.md", canonical.cids()),
        ("job_ids", "jobs.md", canonical.job_ids()),
        ("messages", "encoding.md", canonical.messages()),
        ("refused", "encoding.md", refusals.refusals()),
        ("sealed", "identity.md", canonical.sealed_bodies()),
        ("bundles", "encoding.md", canonical.bundles()),
        ("records", "identity.md", verdicts.records()),
        ("requirements", "identity.md", verdicts.requirements()),
        ("versions", "volunteers.md", outcomes.versions()),
        ("jobs", "jobs.md", verdicts.jobs()),
        ("frames", "frames.md", framing.frames()),
        ("claims", "claims.md", outcomes.claiming()),
        ("commitments", "commitments.md", trust.commitments()),
        ("sortition", "sortition.md", trust.drawing()),
        ("decisions", "certificates.md", votes.decisions()),
        ("rankings", "certificates.md", votes.rankings()),
        ("certificates", "certificates.md", polls.certificates()),
        ("snapshots", "reputation.md", trust.snapshots()),
        ("evidence", "evidence.md", trust.proofs()),
        ("reputation", "reputation.md", trust.records()),
        ("credit", "credit.md", crediting.crediting()),
        ("closed", "closed-networks.md", closing.closing()),
        ("speaking", "transport.md", speaking.speaking()),
        ("swarm_keys", "closed-networks.md", closing.swarm_keys()),
        ("custody", "custody.md", keeping.custody()),
        ("shards", "shards.md", parting.shards()),
    ):
        # A line a case: a change of the protocol shows as the lines that it changes.
        lines = ",\n".join(json.dumps(case) for case in cases)
        content = f'{{"chapter": "{chapter}", "cases": [\n{lines}\n]}}\n'
        (folder / f"{name}.json").write_text(content, "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
