"""A peer's record: what the jobs of one publisher have shown of it, in one class of models."""

from __future__ import annotations

import msgspec

MILLI = 1_000


class Record(msgspec.Struct, frozen=True, array_like=True):
    """How many verdicts agreed with a peer and how many did not, and what it has passed.

    ``milli`` are checks in thousandths, after forgetting; ``faults`` proofs that it broke the
    protocol.
    """

    agreed: int = 0
    contradicted: int = 0
    milli: int = 0
    faults: int = 0

    @property
    def checks(self) -> int:
        """k of the credibility rule: whole checks passed."""
        return 0 if self.faults else self.milli // MILLI
