"""Checks ``vectors/`` against the second implementation in ``independent*.py``.

    python protocol/check_vectors.py [FOLDER]

Needs ``msgpack`` and ``pynacl``, and nothing of p2pfleet. Exits 0 when every vector agrees, 1 when
one does not, 2 when the folder cannot be read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import independent as rules
import independent_closed as closing
import independent_credit as crediting
import independent_custody as keeping
import independent_shards as parting
import independent_trust as trust
import independent_versions as ageing
from nacl.signing import SigningKey


def expand(given: str | list[list[Any]]) -> bytes:
    """Hexadecimal, or runs of it: ``[[hex, times], ...]``."""
    if isinstance(given, str):
        return bytes.fromhex(given)
    return b"".join(bytes.fromhex(part) * times for part, times in given)


def refusal(attempt: Callable[[], Any]) -> str | None:
    try:
        attempt()
    except rules.Refused as refused:
        return refused.rule
    return None


def identities(case: dict[str, Any]) -> Iterator[Any]:
    if "seed" in case:
        key = bytes(SigningKey(bytes.fromhex(case["seed"])).verify_key)
        yield key.hex(), case["public_key"]
        yield rules.peer_text(key), case["peer_id"]
        yield rules.parse_peer(case["peer_id"]), key
    else:
        yield refusal(lambda: rules.parse_peer(case["refused"])), "text"


def networks(case: dict[str, Any]) -> Iterator[Any]:
    parameters = case["parameters"]
    data = rules.network_bytes(**parameters)
    if "refused" in case:
        yield refusal(lambda: rules.decode(data, "network")), case["refused"]
        return
    name = rules.network_id(**parameters)
    yield data.hex(), case["encoding"]
    read = rules.decode(data, "network")
    yield {one: read[one] for one in parameters}, parameters
    yield len(read), len(parameters) + 1
    yield name, case["id"]
    yield f"/p2pfleet/1/{name[:32]}/announcements", case["topic"]
    marked = b"p2pfleet-rendezvous-1:" + bytes.fromhex(name)
    yield "1220" + hashlib.sha256(marked).hexdigest(), case["rendezvous_key"]


def puzzles(case: dict[str, Any]) -> Iterator[Any]:
    network = rules.network_id(**case["network"])
    yield network, case["network_id"]
    yield rules.puzzle(network, case["key"]), (case["digest"], case["zero_bits"])
    fits = rules.fits(network, case["key"], case["network"]["puzzle_bits"])
    yield fits, case["fits"]


def cids(case: dict[str, Any]) -> Iterator[Any]:
    if "refused" in case:
        yield refusal(lambda: rules.parse_cid(case["refused"])), "text"
        return
    cid = rules.CID_PREFIX + hashlib.sha256(bytes.fromhex(case["content"])).digest()
    yield cid.hex(), case["cid"]
    yield rules.cid_text(cid), case["text"]
    yield rules.parse_cid(case["text"]), cid


def job_ids(case: dict[str, Any]) -> Iterator[Any]:
    if "refused" in case:
        yield refusal(lambda: rules.parse_job(case["refused"])), "text"
        return
    yield rules.parse_job(case["text"]), case["job"]


def messages(case: dict[str, Any]) -> Iterator[Any]:
    data = expand(case["encoding"])
    yield rules.sha(data), case["sha256"]
    yield rules.decode(data, case["kind"]), case["value"]


def refused(case: dict[str, Any]) -> Iterator[Any]:
    data = expand(case["encoding"])
    yield rules.sha(data), case["sha256"]
    yield refusal(lambda: rules.decode(data, case["kind"])), case["rule"]


def sealed(case: dict[str, Any]) -> Iterator[Any]:
    data = bytes.fromhex(case["encoding"])
    yield rules.sha(data), case["sha256"]
    value = rules.decode(data, "sealed")
    yield rules.sha(bytes.fromhex(value["body"])), case["hash"]
    yield refusal(lambda: rules.open_sealed(value)), case["rule"]


def bundles(case: dict[str, Any]) -> Iterator[Any]:
    data = bytes.fromhex(case["encoding"])
    yield rules.decode(data, "bundle"), case["tensors"]
    yield rules.sha(data), case["digest"]
    if "file" in case:
        yield rules.outputs_file(case["tensors"]).hex(), case["file"]


def records(case: dict[str, Any]) -> Iterator[Any]:
    name, record = rules.verified(case["record"])
    yield name, case["hash"]
    network = rules.network_id(**case["network"])
    bits = case["network"]["puzzle_bits"]
    yield rules.judge_record(record, network, bits, case["wall_ms"]), case["verdict"]


def requirements(case: dict[str, Any]) -> Iterator[Any]:
    name, requirement = rules.verified(case["requirement"])
    yield name, case["hash"]
    network = rules.network_id(**case["network"])
    yield network, case["network_id"]
    owner = case["network"]["owner"]
    yield rules.judge_requirement(requirement, network, owner, case["known"]), case["verdict"]


def versions(case: dict[str, Any]) -> Iterator[Any]:
    yield rules.version_fits(case["version"], case["minimum"]), case["fits"]


def jobs(case: dict[str, Any]) -> Iterator[Any]:
    job, manifest = rules.verified(case["manifest"])
    yield job, case["job"]
    if case["judged"] == "manifest":
        network, bits = rules.network_id(**case["network"]), case["network"]["puzzle_bits"]
        yield rules.judge_manifest(manifest, network, bits, case["wall_ms"]), case["verdict"]
    elif case["judged"] == "table":
        data = bytes.fromhex(case["table"])
        yield rules.sha(data), case["sha256"]
        yield rules.judge_table(data, manifest), case["verdict"]
    else:
        name, body = rules.verified(case["sealed"])
        yield name, case["hash"]
        if case["judged"] == "closure":
            yield rules.judge_closure(body, manifest), case["verdict"]
        else:
            bits = case["network"]["puzzle_bits"]
            yield rules.judge_frame(body, manifest, bits), case["verdict"]


def frames(case: dict[str, Any]) -> Iterator[Any]:
    log = rules.FrameLog(case["units"], case["leases"])
    for author, incarnation, first, times, entries, verdict in case["arrivals"]:
        for sequence in range(first, first + times):
            yield log.admit(author, incarnation, sequence, entries), verdict
    yield [[*key, at] for key, at in sorted(log.next.items())], case["positions"]
    for _, theirs, replies in case["summaries"]:
        yield log.missing(theirs), replies


def claims(case: dict[str, Any]) -> Iterator[Any]:
    if "held" in case:
        names = ("mean_ms", "slots", "remaining", "volunteers")
        yield rules.lease_units(*(case[name] for name in names)), case["held"]
        return
    salt, unit = bytes.fromhex(case["salt"]), case.get("unit")
    if unit is None:
        peer = bytes.fromhex(case["peer"])
        yield (
            sorted(range(case["units"]), key=lambda one: rules.rank(salt, one, peer)),
            case["order"],
        )
        return
    ranks = {peer: rules.rank(salt, unit, bytes.fromhex(peer)).hex() for peer in case["ranks"]}
    yield ranks, case["ranks"]
    for peers, wanted, staying in case["meetings"]:
        claiming = [list(ranks)[number] for number in peers]
        first = sorted(claiming, key=ranks.__getitem__)[:wanted]
        yield [peer in first for peer in claiming], staying


def commitments(case: dict[str, Any]) -> Iterator[Any]:
    where = [case[name] for name in ("job", "unit", "attempt")]
    yield trust.seed_hash(case["seed"]), case["seed_hash"]
    yield trust.nonce(case["seed"], *where), case["nonce"]
    given = (case["peer"], case["seed"], bytes.fromhex(case["output"]))
    yield trust.commitment(case["network"], *where, *given), case["commitment"]


def sortition(case: dict[str, Any]) -> Iterator[Any]:
    if "allowance" in case:
        yield trust.allowance(case["committed"], case["lapsed"]), case["allowance"]
        return
    crowd, wanted = case["crowd"], case["wanted"]
    yield trust.doublings(crowd, wanted), case["doublings"]
    for peer, drawn, known_ms, newcomer_ms in case["peers"]:
        ticket = trust.ticket(bytes.fromhex(case["salt"]), case["unit"], bytes.fromhex(peer))
        yield str(ticket), drawn
        terms = (ticket, crowd, wanted, case["step_ms"])
        yield trust.eligible_after_ms(*terms, known=True), known_ms
        yield trust.eligible_after_ms(*terms, known=False), newcomer_ms


def decisions(case: dict[str, Any]) -> Iterator[Any]:
    stop, votes, against = case["stop"], case["votes"], case["against"]
    yield trust.holds(stop, votes, against, case["snapshot"]), case["holds"]
    more = 0
    while more < stop["replicas_max"]:
        if trust.holds(stop, votes + [case["checks"]] * more, against, case["snapshot"]):
            break
        more += 1
    yield more, case["more"]


def rankings(case: dict[str, Any]) -> Iterator[Any]:
    def name(letter: str) -> str:
        return (letter.encode() * 32).hex()

    def letter(value: str) -> str:
        return bytes.fromhex(value[:2]).decode()

    ballots = [
        {
            "peer": name(peer), "digest": name(digest), "checks": checks, "attempt": attempt,
            "commit": name(commit), "seen": [name(one) for one in seen],
        }
        for peer, digest, checks, attempt, commit, seen in case["ballots"]
    ]  # fmt: skip
    found = []
    for digest in trust.ranking(case["stop"], bytes(16), case["unit"], ballots):
        votes, against = trust.candidate(digest, ballots)
        speaking = [letter(one["peer"]) + letter(one["digest"]) for one in against]
        found.append([letter(digest), [letter(one["peer"]) for one in votes], speaking])
    yield found, case["ranking"]


def certificates(case: dict[str, Any]) -> Iterator[Any]:
    job, manifest = rules.verified(case["manifest"])
    yield job, case["job"]
    frames = dict(rules.verified(one) for one in case["frames"])
    yield sorted(frames), case["hashes"]
    snapshots = dict(rules.verified(one) for one in case["snapshots"])
    yield sorted(snapshots), case["snapshot_hashes"]
    checker = trust.Checker(job, manifest, frames, snapshots)
    for one in case["certificates"]:
        data = bytes.fromhex(one["encoding"])
        yield rules.sha(data), one["sha256"]
        certificate, output = rules.decode(data, "certificate"), None
        if "output" in one:
            output = bytes.fromhex(one["output"])
            yield rules.sha(output), certificate["digest"]
        yield checker.verdict(certificate, output), one["verdict"]


def snapshots(case: dict[str, Any]) -> Iterator[Any]:
    job, manifest = rules.verified(case["manifest"])
    yield job, case["job"]
    name, snapshot = rules.verified(case["snapshot"])
    yield name, case["hash"]
    network, bits = rules.network_id(**case["network"]), case["network"]["puzzle_bits"]
    yield rules.judge_snapshot(snapshot, network, bits), case["verdict"]
    yield rules.weighs(snapshot, manifest, case["known"]), case["weighs"]


def evidence(case: dict[str, Any]) -> Iterator[Any]:
    first, second = rules.verified(case["first"]), rules.verified(case["second"])
    yield [first[0], second[0]], case["hashes"]
    yield trust.fault(first, second), case["fault"]
    yield bool(trust.fault(second, first)), bool(case["fault"])


def reputation(case: dict[str, Any]) -> Iterator[Any]:
    record = trust.after([move for move, times in case["moves"] for _ in range(times)])
    yield record, case["record"]
    yield record[2] // 1000, case["checks"]
    value = trust.score(*record[:2])
    yield [value.numerator, value.denominator], case["score"]
    yield value >= Fraction(3, 10), case["served"]


def credit(case: dict[str, Any]) -> Iterator[Any]:
    if case["judged"] == "unit":
        given = [case[name] for name in ("work", "units", "lease_ms", "elapsed_ms")]
        yield crediting.base(*given[:2]), case["base"]
        yield crediting.bonus_milli(*given[2:]), case["bonus_milli"]
        yield crediting.credit(*given), case["credit"]
    elif case["judged"] == "earners":
        groups = [case[name] for name in ("voters", "right", "wrong")]
        yield crediting.earners(*groups), case["earners"]
    else:
        name, receipt = rules.verified(case["receipt"])
        yield name, case["hash"]
        network, bits = rules.network_id(**case["network"]), case["network"]["puzzle_bits"]
        known = (case["me"], case["job"], case["held"])
        yield crediting.judge_receipt(receipt, *known, network, bits), case["verdict"]


def closed(case: dict[str, Any]) -> Iterator[Any]:
    judged = case["judged"]
    if judged == "summary":
        yield closing.acceptances_hash(case["hashes"]), case["hash"]
        return
    if judged == "place":
        yield closing.page_of(f"{case['first']:02x}" * 32), case["page"]
        return
    terms = case["network"]
    network = rules.network_id(**terms)
    if judged == "roster":
        pages = [rules.verified(one)[1] for one in case["pages"]]
        words = [rules.verified(one)[1] for one in case["acceptances"]]
        members, witnesses = closing.roster(terms["owner"], pages, words)
        yield sorted(members), case["members"]
        yield witnesses, case["witnesses"]
    else:
        name, body = rules.verified(case["body"])
        yield name, case["hash"]
        if judged == "page":
            given = (network, terms["owner"], terms["closed"], case["known"])
            yield closing.judge_page(body, *given), case["verdict"]
        else:
            judge = closing.judge_admission if judged == "admission" else closing.judge_acceptance
            yield judge(body, network, terms, case["wall_ms"]), case["verdict"]


def swarm_keys(case: dict[str, Any]) -> Iterator[Any]:
    yield closing.key_file(case["file"]), case["key"]
    writes = [bytes.fromhex(one) for one in case["writes"]]
    found = closing.sent(bytes.fromhex(case["key"]), bytes.fromhex(case["nonce"]), writes)
    yield [one.hex() for one in found], case["sent"]


def custody(case: dict[str, Any]) -> Iterator[Any]:
    if case["judged"] == "order":
        ranks = [
            [peer, keeping.rank(case["job"], case["digest"], peer)] for peer, _ in case["ranks"]
        ]
        yield sorted(ranks, key=lambda row: str(row[1])), case["ranks"]
    elif case["judged"] == "wait":
        given = [case[name] for name in ("place", "missing", "length")]
        yield keeping.wait_ms(*given), case["wait_ms"]
    elif case["judged"] == "meant":
        given = [case[name] for name in ("missing", "short_ms", "length")]
        yield keeping.meant(*given), case["meant"]
    elif case["judged"] == "newest":
        highest = max(case["sequences"])
        yield case["sequences"].index(highest), case["newest"]
    else:
        name, record = rules.verified(case["record"])
        yield name, case["hash"]
        yield keeping.jobs_key(record["publisher"]), case["key"]
        network, bits = rules.network_id(**case["network"]), case["network"]["puzzle_bits"]
        yield keeping.judge_record(record, network, bits, case["wall_ms"]), case["verdict"]


def speaking(case: dict[str, Any]) -> Iterator[Any]:
    data = bytes.fromhex(case["encoding"])
    yield rules.sha(data), case["sha256"]
    if case["judged"] == "greeting":
        told = ageing.told(data)
        yield told, case["versions"]
        yield told is not None and ageing.common(told), case["common"]
        return
    found = []
    rule = refusal(lambda: found.append(ageing.read_newer(data)))
    if rule is None:
        rule = "unknown" if found[0] is None else ""
        yield found[0], case.get("value")
    yield rule, case["rule"]


def shards(case: dict[str, Any]) -> Iterator[Any]:
    salt = case.get("salt", "")
    if "drawn" in case:
        yield parting.drawn(salt).hex(), case["drawn"]
    if case["judged"] == "units":
        units, count = case["units"], case["shards"]
        yield parting.shuffle(salt, units), case["shuffle"]
        parts: list[list[int]] = [[] for _ in range(count)]
        for unit in range(units):
            parts[parting.shard_of(salt, units, count, unit)].append(unit)
        yield parts, case["parts"]
    elif case["judged"] == "unit":
        given = [case[name] for name in ("units", "shards", "unit")]
        yield parting.shard_of(salt, *given), case["shard"]
    elif case["judged"] == "order":
        ranks = [parting.rank(salt, shard, case["peer"]) for shard in range(len(case["ranks"]))]
        yield ranks, case["ranks"]
        yield sorted(range(len(ranks)), key=ranks.__getitem__), case["order"]
    elif case["judged"] == "full":
        ranks = {peer: parting.rank(salt, case["shard"], peer) for peer, _, _ in case["members"]}
        staying = sorted(ranks, key=ranks.__getitem__)[:24]
        yield [[peer, rank, peer in staying] for peer, rank in ranks.items()], case["members"]
        yield staying[:3], case["keepers"]
    elif case["judged"] == "called":
        given = [case[name] for name in ("lacking", "volunteers", "doublings")]
        for peer, rank, called in case["peers"]:
            yield parting.rank(salt, case["shard"], peer), rank
            yield parting.called(rank, *given), called
    elif case["judged"] == "lacking":
        given = [case[name] for name in ("open", "replicas", "unit_ms", "members")]
        yield parting.lacking(*given), case["lacking"]
    elif case["judged"] == "meeting":
        yield parting.meeting(case["job"], case["shard"]), case["key"]
    else:
        common = [parting.rank(salt, shard, "") for shard, _ in case["members"]]
        yield common, case["common"]
        yield parting.helped_first(salt, case["members"]), case["order"]


FILES: dict[str, Callable[[dict[str, Any]], Iterator[Any]]] = {
    "identities": identities, "networks": networks, "puzzles": puzzles,
    "cids": cids, "job_ids": job_ids, "messages": messages, "refused": refused,
    "sealed": sealed, "bundles": bundles,
    "records": records, "requirements": requirements, "versions": versions,
    "jobs": jobs, "frames": frames, "claims": claims,
    "commitments": commitments, "sortition": sortition, "decisions": decisions,
    "rankings": rankings, "certificates": certificates, "snapshots": snapshots,
    "evidence": evidence, "reputation": reputation,
    "credit": credit, "closed": closed, "swarm_keys": swarm_keys, "speaking": speaking,
    "custody": custody, "shards": shards,
}  # fmt: skip


def check_file(name: str, document: dict[str, Any]) -> list[str]:
    """What does not agree in one file of vectors; empty if all does."""
    wrong = []
    for case in document["cases"]:
        try:
            for ours, theirs in FILES[name](case):
                if ours != theirs:
                    shown = f"{str(ours)[:80]} here, {str(theirs)[:80]} in the vector"
                    wrong.append(f"{name}: {case['about']}: {shown}")
        except Exception as error:
            # A damaged vector may break anything; whatever it breaks is a disagreement.
            wrong.append(f"{name}: {case['about']}: {type(error).__name__}: {str(error)[:80]}")
    return wrong


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0]) if arguments else Path(__file__).parent / "vectors"
    try:
        documents = {
            name: json.loads((folder / f"{name}.json").read_text("utf-8")) for name in FILES
        }
    except (OSError, ValueError) as error:
        sys.stderr.write(f"The vectors in {folder} cannot be read: {error}\n")
        return 2
    wrong = [line for name, document in documents.items() for line in check_file(name, document)]
    for line in wrong:
        sys.stderr.write(line + "\n")
    cases = sum(len(document["cases"]) for document in documents.values())
    result = f"{len(wrong)} disagreements" if wrong else "all agree"
    sys.stdout.write(f"checked {cases} vectors in {len(documents)} files: {result}\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
