"""The second implementation of what trust rests on: commitments, sortition, certificates, evidence,
records. Like ``independent.py``, which it continues, it is built from the chapters alone.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

from independent import rank, sha

# ---- commitments.md, sortition.md ------------------------------------------------------------


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def seed_hash(seed: str) -> str:
    return sha(b"p2pfleet-seed-1:" + bytes.fromhex(seed))


def nonce(seed: str, job: str, unit: int, attempt: int) -> str:
    where = bytes.fromhex(job) + number(unit, 8) + number(attempt, 1)
    return sha(b"p2pfleet-nonce-1:" + bytes.fromhex(seed) + where)


def commitment(
    network: str, job: str, unit: int, attempt: int, peer: str, seed: str, output: bytes
) -> str:
    return sha(
        b"p2pfleet-commitment-1:" + bytes.fromhex(network + job) + number(unit, 8)
        + number(attempt, 1) + bytes.fromhex(peer + nonce(seed, job, unit, attempt)) + output
    )  # fmt: skip


def ticket(salt: bytes, unit: int, peer: bytes) -> int:
    return int.from_bytes(rank(salt, unit, peer)[:8], "big")


def first_threshold(crowd: int, wanted: int) -> int:
    return 2**64 * min(crowd, 4 * wanted) // crowd


def doublings(crowd: int, wanted: int) -> int:
    count = 0
    while first_threshold(crowd, wanted) * 2**count < 2**64:
        count += 1
    return count


def eligible_after_ms(drawn: int, crowd: int, wanted: int, step_ms: int, known: bool) -> int:
    steps = 0 if known else doublings(crowd, wanted)
    while first_threshold(crowd, wanted) <= drawn:
        drawn //= 2
        steps += 1
    return steps * step_ms


def allowance(committed: int, lapsed: int) -> int:
    return max(1, min(4096, 4 + 2 * committed) >> min(lapsed, 16))


# ---- certificates.md -------------------------------------------------------------------------


def credible(stop: dict[str, Any], votes: list[int], against: list[list[int]]) -> bool:
    """The two conditions of the confidence rule, for the checks of each voter."""
    f, error = Fraction(stop["faulty_ppm"], 10**6), Fraction(stop["error_ppb"], 10**9)
    groups = [votes, *against]
    if not votes or sum(map(len, groups)) > 64:
        return False
    alone = [prod((max(k, 1) / f - 1 for k in group), start=Fraction(1)) for group in groups]
    alike = []
    for group in groups:
        passed = max(at * k for at, k in enumerate(sorted(group, reverse=True), 1))
        n = min(passed, 64)
        luck = Fraction(n**n, (n + 1) ** n) / (passed + 1)
        alike.append(((1 - f) / f) ** len(group) / luck)
    return alone[0] / (1 + sum(alone)) >= 1 - error / 2 and alike[0] / (1 + sum(alike)) >= 1 - error


def holds(stop: dict[str, Any], votes: list[int], against: list[list[int]], known: bool) -> bool:
    """Whether votes fulfil the stop rule; ``known``: there is a trust snapshot."""
    if stop["is"] == "FixedQuorum":
        second = max(map(len, against), default=0)
        return bool(len(votes) >= stop["quorum"] + max(0, second - stop["quorum"] + 1))
    records, newcomers = [k for k in votes if k], [k for k in votes if not k]
    counted = newcomers[: len(records)] if known else newcomers
    return credible(stop, records + counted, against)


def together(one: dict[str, Any], two: dict[str, Any]) -> bool:
    seen = one["commit"] in two["seen"] and two["commit"] in one["seen"]
    return bool(one["attempt"] != two["attempt"] or seen)


def candidate(
    digest: str, ballots: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ballots for a digest that count together, and those against it."""
    mine: list[dict[str, Any]] = []
    support = [one for one in ballots if one["digest"] == digest]
    for one in sorted(support, key=lambda one: (one["attempt"], -one["checks"], one["peer"])):
        if all(one["peer"] != other["peer"] and together(one, other) for other in mine):
            mine.append(one)
    peers, last = {one["peer"] for one in support}, {}
    for one in sorted(ballots, key=lambda one: one["attempt"]):
        if one["peer"] not in peers:
            last[one["peer"]] = one
    return mine[:64], sorted(last.values(), key=lambda one: (-one["checks"], one["peer"]))[:64]


def weight(stop: dict[str, Any], votes: list[int]) -> Fraction:
    if stop["is"] == "FixedQuorum" or not votes:
        return Fraction(len(votes))
    f = Fraction(stop["faulty_ppm"], 10**6)
    return prod((max(k, 1) / f - 1 for k in votes), start=Fraction(1))


def ranking(
    stop: dict[str, Any], salt: bytes, unit: int, ballots: list[dict[str, Any]]
) -> list[str]:
    """All digests, the weightiest first."""

    def place(digest: str) -> tuple[Fraction, bytes]:
        votes = [one["checks"] for one in candidate(digest, ballots)[0]]
        return -weight(stop, votes), rank(salt, unit, bytes.fromhex(digest))

    return sorted({one["digest"] for one in ballots}, key=place)


class Void(Exception):
    """What a certificate fails on."""


def demand(condition: bool, check: str) -> None:
    if not condition:
        raise Void(check)


class Checker:
    """Certificates of one job, given its frames and trust snapshots by name."""

    def __init__(
        self,
        job: str,
        manifest: dict[str, Any],
        frames: dict[str, dict[str, Any]],
        snapshots: dict[str, dict[str, Any]],
    ) -> None:
        self.job, self.manifest, self.frames, self.snapshots = job, manifest, frames, snapshots

    def verdict(self, certificate: dict[str, Any], output: bytes | None = None) -> str:
        try:
            self.check(certificate, output)
        except Void as void:
            return str(void)
        return "holds"

    def check(self, certificate: dict[str, Any], output: bytes | None) -> None:
        manifest, digest = self.manifest, certificate["digest"]
        demand(certificate["job"] == self.job, "job")
        demand(certificate["unit"] < manifest["units"], "unit")
        records = self.records(certificate["snapshot"])
        votes = [self.ballot(ref, certificate["unit"]) for ref in certificate["votes"]]
        against = [self.ballot(ref, certificate["unit"]) for ref in certificate["against"]]
        everybody = [one["peer"] for one in votes + against]
        demand(len(set(everybody)) == len(everybody), "twice")
        demand(all(one["digest"] == digest for one in votes), "other vote")
        demand(all(one["digest"] != digest for one in against), "against")
        for at, one in enumerate(votes):
            demand(all(together(one, other) for other in votes[:at]), "closed")
        for one in votes:
            if output is not None and not one["endorsed"]:
                given = (one["attempt"], one["peer"], one["seed"], output)
                made = commitment(manifest["network"], self.job, certificate["unit"], *given)
                demand(made == one["commitment"], "opened")
        if certificate["audit"] is not None:
            author, entry = self.entry(certificate["audit"])
            good = entry["is"] == "Audit" and author == manifest["publisher"]
            demand(good and certificate["audit"]["item"] == 0, "audit")
            said = (entry["unit"], entry["digest"])
            demand(said == (certificate["unit"], digest), "audit")
            return
        groups: dict[str, list[int]] = {}
        for one in against:
            groups.setdefault(one["digest"], []).append(records.get(one["peer"], 0))
        mine = [records.get(one["peer"], 0) for one in votes]
        known = certificate["snapshot"] is not None
        demand(bool(mine) and holds(manifest["stop"], mine, [*groups.values()], known), "votes")

    def records(self, name: str | None) -> dict[str, int]:
        if name is None:
            demand(self.manifest["trust"]["snapshot"] is None, "snapshot")
            return {}
        demand(name in self.snapshots, "snapshot")
        found = self.snapshots[name]
        same = all(found[one] == self.manifest[one] for one in ("network", "publisher"))
        demand(same, "snapshot")
        demand(found["model_class"] == self.manifest["trust"]["model_class"], "snapshot")
        return {one["peer"]: one["checks"] for one in found["records"]}

    def frame(self, name: str) -> dict[str, Any]:
        demand(name in self.frames, "frame")
        found = self.frames[name]
        same = found["job"] == self.job and found["network"] == self.manifest["network"]
        demand(same, "elsewhere")
        return found

    def entry(self, ref: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        frame = self.frame(ref["frame"])
        demand(ref["index"] < len(frame["entries"]), "index")
        return frame["author"], frame["entries"][ref["index"]]

    def ballot(self, ref: dict[str, Any], unit: int) -> dict[str, Any]:
        author, entry = self.entry(ref)
        demand(author != self.manifest["publisher"], "publisher")
        if entry["is"] == "Endorse":
            demand(self.manifest["comparison"]["is"] == "Tolerance", "endorsement")
            demand(entry["unit"] == unit, "other unit")
            demand(ref["item"] == 0, "item")
            whose, own = self.entry(entry["own"])
            demand(whose == author and own["is"] == "Reveal", "endorsement")
            return {**self.ballot(entry["own"], unit), "digest": entry["digest"], "endorsed": True}
        demand(entry["is"] == "Reveal", "no vote")
        demand(ref["item"] < len(entry["items"]), "item")
        item = entry["items"][ref["item"]]
        demand(item["unit"] == unit, "other unit")
        whose, commit = self.entry({"frame": entry["commit"], "index": entry["index"]})
        demand(whose == author and commit["is"] == "Commit", "commitment")
        demand(not contradiction(commit, entry), "commitment")
        return {
            "peer": author, "digest": item["digest"], "attempt": item["attempt"],
            "commit": entry["commit"], "seen": entry["seen"], "seed": entry["seed"],
            "commitment": commit["items"][ref["item"]]["commitment"], "endorsed": False,
        }  # fmt: skip


# ---- evidence.md, reputation.md --------------------------------------------------------------


def contradiction(commit: dict[str, Any], reveal: dict[str, Any]) -> str:
    if seed_hash(reveal["seed"]) != commit["seed_hash"]:
        return "seed"
    units = [[(one["unit"], one["attempt"]) for one in each["items"]] for each in (commit, reveal)]
    return "" if units[0] == units[1] else "units"


def answers(frame: dict[str, Any]) -> list[tuple[tuple[str, int, int], str]]:
    found = []
    for entry in frame["entries"]:
        for one in entry["items"] if entry["is"] == "Reveal" else [entry]:
            if entry["is"] in ("Reveal", "Endorse"):
                found.append(((entry["is"], one["unit"], one["attempt"]), one["digest"]))
    return found


def fault(first: tuple[str, dict[str, Any]], second: tuple[str, dict[str, Any]]) -> str:
    """What two frames, each with its name, prove against their author; empty: nothing."""
    one, two = first[1], second[1]
    if any(one[name] != two[name] for name in ("network", "job", "author")):
        return ""
    if one["incarnation"] == two["incarnation"]:
        said: dict[tuple[str, int, int], str] = {}
        for answer, digest in answers(one) + answers(two):
            if said.setdefault(answer, digest) != digest:
                return "answers"
    for (name, commits), (_, reveals) in ((first, second), (second, first)):
        for entry in reveals["entries"]:
            if entry["is"] != "Reveal" or entry["commit"] != name:
                continue
            named = dict(enumerate(commits["entries"])).get(entry["index"], {"is": "nothing"})
            if named["is"] != "Commit":
                return "no commitment"
            if contradiction(named, entry):
                return contradiction(named, entry)
    return ""


def after(moves: list[str]) -> list[int]:
    """Agreed, contradicted and thousandths of checks after these moves of a newcomer."""
    agreed = contradicted = milli = 0
    for move in moves:
        if move in ("contradicted", "failed audit", "failed ringer", "false commitment"):
            contradicted, milli = contradicted + 1, 0
            continue
        agreed += 1
        if move in ("confirmed", "audited", "ringer"):
            milli += 1000 - milli // 320
    return [agreed, contradicted, milli]


def score(agreed: int, contradicted: int) -> Fraction:
    return Fraction(agreed + 1, agreed + contradicted + 2)
