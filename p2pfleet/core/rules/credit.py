"""What past work is worth, and which receipts for it are taken (``protocol/credit.md``).

Credit counts operations of the job's model as its graph tells them, not the time that they took:
nobody gains by being slow. A unit earns credit once, when it is settled; everybody whose answer its
result rests on earns all of it. Who answers soon after claiming earns up to twice as much.

The bonus follows Folding@home's quick return bonus, ``base * max(1, sqrt(k * deadline /
elapsed))``, in whole numbers, with k = 3/4 and a ceiling.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isqrt

from p2pfleet.core.errors import ACCEPT, Ignore, Reject, Verdict
from p2pfleet.core.model.ids import PeerId
from p2pfleet.core.model.network import NetworkTerms
from p2pfleet.core.model.puzzle import fits
from p2pfleet.core.wire.messages import WORK_MAX, Manifest, Receipt

MILLI = 1_000
BONUS_MAX_MILLI = 2_000
BONUS_SHARE = (3, 4)
"""k: answers that take less than this share of the lease earn a bonus."""


def base(work: int, units: int) -> int:
    """What one unit is worth: ``work`` operations as the manifest says, at least 1.

    At most what keeps the sum over all ``units`` within ``WORK_MAX``, so that no receipt of the job
    overflows.
    """
    return max(1, min(work, WORK_MAX // units))


def bonus_milli(lease_ms: int, elapsed_ms: int | None) -> int:
    """The factor for a quick answer in thousandths, 1000 to 2000, rounded down.

    ``elapsed_ms`` is the time from the first sight of the voter's claim to its commitment by the
    publisher's clock; ``None``: the publisher did not see both, and there is no bonus.
    """
    if elapsed_ms is None:
        return MILLI
    share, whole = BONUS_SHARE
    square = MILLI * MILLI * share * lease_ms // (whole * max(1, elapsed_ms))
    return min(BONUS_MAX_MILLI, max(MILLI, isqrt(square)))


def earned(work: int, units: int, lease_ms: int, elapsed_ms: int | None) -> int:
    """The credit that one settled unit earns one voter, rounded down."""
    return base(work, units) * bonus_milli(lease_ms, elapsed_ms) // MILLI


def earners(
    voters: Collection[PeerId], right: Collection[PeerId], wrong: Collection[PeerId]
) -> list[PeerId]:
    """Who earns credit for a settled unit; sorted, each once.

    ``voters`` are the authors of the certificate's votes, ``right`` those whose answer the
    publisher's own execution confirmed, ``wrong`` those whose answer was found to be another one,
    or who had not committed to it.
    """
    return sorted({*voters, *right} - {*wrong})


def receipt_fault(receipt: Receipt, manifest: Manifest) -> str:
    """Why no volunteer of the job can have earned what a receipt says; empty if one can."""
    if receipt.units > manifest.units:
        return "the receipt counts more units than the job has"
    if receipt.work != receipt.units * base(manifest.work, manifest.units):
        return "the receipt counts other work than its units are worth"
    if not receipt.work <= receipt.credit <= receipt.work * BONUS_MAX_MILLI // MILLI:
        return "the receipt gives other credit than its work can earn"
    return ""


def judge_receipt(
    receipt: Receipt,
    me: PeerId,
    manifest: Manifest | None,
    held: Receipt | None,
    terms: NetworkTerms,
) -> Verdict:
    """Accept a receipt for work that ``me`` has done, or why not.

    ``manifest`` is that of the receipt's job, if the job is known; ``held`` the receipt of this job
    that is here already.
    """
    if receipt.network != terms.id:
        return Reject("the receipt belongs to another network")
    if not fits(terms, receipt.publisher):
        return Reject("the publisher's key does not fit the network")
    if receipt.peer != me:
        return Reject("the receipt is for somebody else")
    if receipt.publisher == me:
        return Reject("a publisher earns nothing with its own job")
    if manifest is None:
        return Ignore("the receipt's job is not known here")
    if receipt.publisher != manifest.publisher:
        return Reject("somebody else than the job's publisher signed the receipt")
    fault = receipt_fault(receipt, manifest)
    if fault:
        return Reject(fault)
    if held is not None:
        if receipt.number <= held.number:
            return Ignore("a receipt of this number or a later one is here already")
        if receipt.units < held.units or receipt.work < held.work or receipt.credit < held.credit:
            return Ignore("the receipt says less than the one that is here")
    return ACCEPT
