"""From a request to a manifest: its terms, its ringers, its work, and what is kept of it."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import pytest
import trio
from onnx import TensorProto, helper

from p2pfleet import ringers as ringing
from p2pfleet.adapters.sandbox import SandboxConfig, open_sandbox
from p2pfleet.adapters.store import FilePacks
from p2pfleet.core import events as ev
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.comparison import OutputTolerance, Tolerance
from p2pfleet.core.model.ids import Cid, NetworkId, PeerId, sha256
from p2pfleet.core.model.job import Confidence, Exact, FixedQuorum, UnitInput, UnitTable
from p2pfleet.core.rules.admission import ringers_hash
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import RINGERS_MAX, OpenRingers
from p2pfleet.core.wire.tensors import digest_of
from p2pfleet.ports import Execution, ExecutionFault, ModelSignature, SandboxJob, TensorSpec
from p2pfleet.publishing import Draft, SubmitRequest, prepare
from p2pfleet.ringers import Bench, Ringers, compute, how_many
from p2pfleet.running import RunningNode
from p2pfleet.runtime.inputs import packs_known
from p2pfleet.submission import (
    audit_ppm,
    comparison_of,
    limits_of,
    shortage,
    stop_of,
    window_ms,
)
from tests.adapters.sandbox import models
from tests.adapters.sandbox.models import bundle

CONFIG = SandboxConfig(idle=False, nice=0)
F32 = np.float32


def guarded(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Make a plain test of an async one; it fails after a minute."""

    @functools.wraps(test)
    def run(**fixtures: Any) -> None:
        async def main() -> None:
            with trio.fail_after(60):
                await test(**fixtures)

        trio.run(main)

    return run


def request(**terms: Any) -> SubmitRequest:
    return SubmitRequest("model.onnx", ("x.npz",), "job", **terms)


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(P2pfleetError) as caught:
        call()
    assert caught.value.code is ExitCode.USAGE
    assert caught.value.advice
    return caught.value.message


# ---- when a unit is decided ------------------------------------------------------------------


def test_without_a_word_two_have_to_agree() -> None:
    assert stop_of(request()) == FixedQuorum(2, 7)
    assert stop_of(request(quorum=3)) == FixedQuorum(3, 9)
    assert stop_of(request(quorum=32)) == FixedQuorum(32, 64)
    assert stop_of(request(quorum=3, replicas_max=3)) == FixedQuorum(3, 3)
    assert audit_ppm(request()) == 0


def test_a_confidence_becomes_an_accepted_error_in_billionths() -> None:
    for theta, error_ppb in (
        (0.999, 1_000_000), (0.9999, 100_000), (0.5, 500_000_000), (0.999999999, 1),
        (0.9, 100_000_000), (0.99, 10_000_000), (0.7, 300_000_000),
    ):  # fmt: skip
        stop = stop_of(request(confidence=theta))
        assert isinstance(stop, Confidence)
        assert (stop.error_ppb, stop.faulty_ppm) == (error_ppb, 100_000)
    stop = stop_of(request(confidence=0.9999999985, assume_faulty=0.05))
    assert isinstance(stop, Confidence)
    assert (stop.error_ppb, stop.faulty_ppm) == (1, 50_000), "never less sure than asked"
    assert audit_ppm(request(confidence=0.99)) == 100_000
    assert audit_ppm(request(confidence=0.99, audit=0.0)) == 0
    assert audit_ppm(request(audit=0.25)) == 250_000


def test_a_confident_job_has_room_for_the_votes_of_strangers() -> None:
    # Nine to one each: 4 strangers make 6561 to 1, where 1999 to 1 and 999 to 1 are asked.
    assert stop_of(request(confidence=0.999)) == Confidence(1_000_000, 100_000, 11)
    assert shortage(stop_of(request(confidence=0.999))) == ""
    assert shortage(stop_of(request(confidence=0.999, replicas_max=4))) == ""
    assert "after 4 votes" in shortage(stop_of(request(confidence=0.999, replicas_max=3)))
    # As many faulty as not: nothing but records helps.
    stop = stop_of(request(confidence=0.999, assume_faulty=0.5))
    assert isinstance(stop, Confidence)
    assert stop.replicas_max == 64
    assert "more than 64 votes" in shortage(stop)


@pytest.mark.parametrize(
    ("terms", "word"),
    [
        ({"quorum": 2, "confidence": 0.9}, "two ways"),
        ({"assume_faulty": 0.1}, "without --confidence"),
        ({"confidence": 1.0}, "confidence of 1"),
        ({"confidence": 0.49}, "confidence of 0.49"),
        ({"confidence": math.nan}, "confidence of nan"),
        ({"confidence": 0.9999999999}, "more than can be shown"),
        ({"confidence": 0.9, "assume_faulty": 0.0}, "no share"),
        ({"confidence": 0.9, "assume_faulty": 0.51}, "no share"),
        ({"confidence": 0.9, "replicas_max": 65}, "cannot be published"),
        ({"confidence": 0.9, "replicas_max": 0}, "cannot be published"),
        ({"quorum": 33}, "cannot be published"),
        ({"quorum": 3, "replicas_max": 2}, "quorum of 3"),
    ],
)
def test_terms_that_cannot_be_met_are_refused(terms: dict[str, Any], word: str) -> None:
    assert word in refused(lambda: stop_of(request(**terms)))


def test_other_numbers_have_bounds_as_well() -> None:
    assert "cpu" in refused(lambda: limits_of(request(cpu_s=math.inf)))
    assert "no share" in refused(lambda: audit_ppm(request(audit=1.5)))
    assert "no share" in refused(lambda: audit_ppm(request(audit=math.nan)))
    assert window_ms(request()) == 5_000
    assert window_ms(request(window_s=0.1)) == 100
    assert window_ms(request(window_s=3600)) == 3_600_000
    for wrong in (0.0999, 3600.1, -1.0, math.nan, math.inf):
        assert "wait" in refused(lambda wrong=wrong: window_ms(request(window_s=wrong)))
    assert "129 ringers" in refused(lambda: ringing_checked(129))
    assert "-1 ringers" in refused(lambda: ringing_checked(-1))


def ringing_checked(count: int) -> None:
    from p2pfleet.submission import check_ringers

    check_ringers(request(ringers=count))


# ---- how answers are compared ----------------------------------------------------------------

SIGNATURE = ModelSignature(
    (),
    (
        TensorSpec("y", "float32", (2,)), TensorSpec("d", "float64", (2,)),
        TensorSpec("i", "int64", (2,)),
    ),
)  # fmt: skip
OUTPUTS = bundle(
    y=F32([0.1, 0.2]), d=np.array([0.1, 0.2], F32).astype(np.float64), i=np.array([1, 2])
)
SINGLE = OutputTolerance("d", 10_000_000, 100_000)


def test_bytes_are_compared_unless_a_tolerance_is_asked_for() -> None:
    assert comparison_of(request(), OUTPUTS, SIGNATURE) == (Exact(), ())


def test_a_tolerance_is_suggested_by_the_first_result_and_settable_by_output() -> None:
    assert comparison_of(request(tolerance=True), OUTPUTS, SIGNATURE) == (Tolerance((SINGLE,)), ())
    own = OutputTolerance("y", 1, 2)
    found, _ = comparison_of(request(tolerances=(own,)), OUTPUTS, SIGNATURE)
    assert found == Tolerance((SINGLE, own)), "in the order of their names"
    mine = OutputTolerance("d", 0, 0)
    found, _ = comparison_of(request(tolerance=True, tolerances=(mine,)), OUTPUTS, SIGNATURE)
    assert found == Tolerance((mine,))


def test_a_tolerance_that_sets_nothing_is_warned_of_or_refused() -> None:
    vain = (OutputTolerance("i", 1, 1), OutputTolerance("zz", 1, 1))
    _, warnings = comparison_of(request(tolerances=vain), OUTPUTS, SIGNATURE)
    assert len(warnings) == 2
    assert "'i' sets nothing: it is int64" in warnings[0]
    assert "'zz' sets nothing: there is none" in warnings[1]
    strict = request(tolerances=vain, strict=True)
    assert "'i'" in refused(lambda: comparison_of(strict, OUTPUTS, SIGNATURE))
    whole = ModelSignature((), (TensorSpec("i", "int64", (2,)),))
    _, warnings = comparison_of(request(tolerance=True), bundle(i=np.array([1])), whole)
    assert "no output of the model is floating" in warnings[0]
    twice = request(tolerances=(SINGLE, SINGLE))
    assert "twice" in refused(lambda: comparison_of(twice, OUTPUTS, SIGNATURE))


# ---- ringers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("units", "asked", "unit_ms", "count"),
    [
        (1, None, 1, 1), (49, None, 1, 1), (51, None, 1, 2), (1000, None, 1, 20),
        (10**6, None, 1, 128), (1000, None, 3_000, 10), (1000, None, 30_000, 1),
        (1000, None, 30_001, 0), (1000, None, 0, 20), (5, 7, 1, 5), (1000, 7, 10**6, 7),
        (1000, 0, 1, 0),
    ],
)  # fmt: skip
def test_ringers_are_few_and_what_half_a_minute_computes(
    units: int, asked: int | None, unit_ms: int, count: int
) -> None:
    assert how_many(units, asked, unit_ms) == count


class Child:
    """Doubles the first byte; ``faults`` are raised for inputs that begin with their key."""

    signature = ModelSignature((), ())

    def __init__(self, faults: dict[int, str], wall_ms: int = 1) -> None:
        self._faults = faults
        self._wall_ms = wall_ms
        self.dead = False

    async def execute(self, inputs: bytes) -> Execution:
        await trio.lowlevel.checkpoint()
        if self.dead:
            raise ExecutionFault("killed", "it has ended")
        fault = self._faults.get(inputs[0])
        if fault is not None:
            self.dead = fault not in ("input", "output")
            raise ExecutionFault(fault, f"it is {fault}")
        return Execution(answer(inputs), self._wall_ms, self._wall_ms)

    def kill(self) -> None:
        self.dead = True


def answer(inputs: bytes) -> bytes:
    return bytes([inputs[0]]) * 2


class Workbench:
    """Packs with so many units of one byte and more, and a bench whose children are counted."""

    def __init__(self, folder: Path, units: int, wall_ms: int = 1, **faults: str) -> None:
        self.packs = FilePacks(folder / "packs", 2**30, 0)
        self.members = [bytes([number]) * (number + 1) for number in range(units)]
        cids, table = [], []
        for pack in range(0, units, 7):
            offset = 0
            for member in self.members[pack : pack + 7]:
                digest = cast("Any", sha256(member))
                table.append(UnitInput(len(cids), offset, len(member), digest))
                offset += len(member)
            cids.append(self.packs.add(b"".join(self.members[pack : pack + 7])))
        self.packs.pin(b"test", cids)
        self.table = UnitTable(tuple(cids), tuple(table))
        self._faults = {int(unit[1:]): kind for unit, kind in faults.items()}
        self._wall_ms = wall_ms
        self.children: list[Child] = []
        self.bench = Bench(self._child(), self._load)

    def _child(self) -> SandboxJob:
        self.children.append(Child(self._faults, self._wall_ms))
        return cast("SandboxJob", self.children[-1])

    async def _load(self) -> SandboxJob:
        await trio.lowlevel.checkpoint()
        return self._child()

    async def compute(self, count: int, patience_ms: int | None = None) -> Ringers:
        return await compute(self.bench, self.packs, self.table, count, patience_ms, self.packs.add)


@guarded
async def test_ringers_are_drawn_anew_from_all_units_and_hidden_by_a_hash(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, 40)
    one, two = await bench.compute(12), await bench.compute(12)

    for found in (one, two):
        units = [ringer.unit for ringer in found.ringers]
        assert len(units) == 12
        assert units == sorted(set(units))
        assert [ringer.digest for ringer in found.ringers] == [
            digest_of(answer(bench.members[unit])) for unit in units
        ]
        assert found.hash == ringers_hash(OpenRingers(found.secret, found.ringers))
        assert len(found.secret) == 32
    assert one.ringers != two.ringers, "one in five thousand million is the chance"
    assert one.secret != two.secret
    drawn = {ringer.unit for _ in range(30) for ringer in (await bench.compute(12)).ringers}
    assert drawn == set(range(40)), "no unit is left out for ever"
    assert len(bench.children) == 1
    assert Ringers().hash is None


@guarded
async def test_ringers_stop_when_their_time_is_up(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, 40, wall_ms=1_000)
    found = await bench.compute(40, patience_ms=5_000)
    assert len(found.ringers) == 5
    assert found.wall_ms == 5_000
    assert [ringer.unit for ringer in found.ringers] != list(range(5))
    assert len((await bench.compute(40)).ringers) == 40


@guarded
async def test_a_unit_that_cannot_be_run_is_left_out_and_the_child_replaced(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, 6, u2="memory", u4="output")
    found = await bench.compute(6)
    assert [ringer.unit for ringer in found.ringers] == [0, 1, 3, 5]
    assert sorted(found.faults) == [(2, "it is memory"), (4, "it is output")]
    assert len(bench.children) <= 2, "one for each that died, if anything came after it"

    bench = Workbench(tmp_path / "all", 20, **{f"u{unit}": "cpu" for unit in range(20)})
    found = await bench.compute(20)
    assert (found.ringers, found.hash, len(found.faults)) == ((), None, 3)
    assert len(bench.children) == 3


@guarded
async def test_a_sandbox_that_is_closed_ends_it(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, 6)

    async def closed() -> SandboxJob:
        await trio.lowlevel.checkpoint()
        raise ExecutionFault("killed", "the sandbox is closed")

    bench.bench = Bench(bench.bench.child, closed)
    bench.bench.kill()
    with pytest.raises(ExecutionFault, match="closed"):
        await bench.compute(3)


@guarded
async def test_a_pack_that_cannot_be_read_back_ends_it(tmp_path: Path) -> None:
    for name, size in (("changed", 21), ("cut", 5)):
        bench = Workbench(tmp_path / name, 6)
        located = bench.packs.locate(Cid(bench.table.packs[0]))
        assert located is not None
        located[0].chmod(0o600)
        located[0].write_bytes(b"x" * size)
        with pytest.raises(P2pfleetError, match="read back") as caught:
            await bench.compute(3)
        assert caught.value.code is ExitCode.DAMAGED


# ---- the whole of it -------------------------------------------------------------------------


def save(folder: Path, model: bytes, given: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(model)
    np.savez(folder / "first.npz", **given)


async def prepared(
    folder: Path, model: bytes, given: dict[str, Any], crowd: int = 5, snapshot: Any = None,
    **terms: Any,
) -> Draft:  # fmt: skip
    save(folder, model, given)
    asked = SubmitRequest(
        str(folder / "model.onnx"), (str(folder / "first.npz"),), "job", split="0", **terms
    )
    async with open_sandbox(CONFIG) as sandbox:
        draft = await prepare(
            asked,
            packs=FilePacks(folder / "packs", 2**30, 0),
            sandbox=sandbox,
            network=NetworkId(bytes(32)),
            publisher=PeerId(bytes(32)),
            wall_ms=1_800_000_000_000,
            pin=lambda _: None,
            crowd=lambda: crowd,
            snapshot=snapshot,
        )
        with trio.fail_after(10):
            while sandbox.children:  # noqa: ASYNC110
                await trio.sleep(0.01)
    return draft


ROWS = np.random.default_rng(4).standard_normal((60, 16)).astype(F32)


@guarded
async def test_a_confident_job_says_all_that_it_asks_for(tmp_path: Path) -> None:
    draft = await prepared(
        tmp_path, models.matmul(16), {"x": ROWS}, confidence=0.999, tolerance=True, crowd=9,
        snapshot=bytes(range(32)), model_class="faces", window_s=1.25,
    )  # fmt: skip
    manifest, trust = draft.manifest, draft.manifest.trust

    assert manifest.stop == Confidence(1_000_000, 100_000, 11)
    assert manifest.comparison == Tolerance()
    assert manifest.work == 2 * 16 * 16 + 16, "a product and a softmax, of one row"
    assert (trust.model_class, trust.crowd, trust.audit_ppm) == ("faces", 9, 100_000)
    assert trust.snapshot == bytes(range(32))
    assert trust.window_ms == 1_250
    assert len(draft.ringers) == 2, "2 % of 60"
    assert trust.ringers == ringers_hash(OpenRingers(draft.ringers_secret, draft.ringers))
    assert draft.warnings == draft.notes == ()
    assert draft.terms() == {
        "stop": "confidence", "confidence": 0.999, "assume_faulty": 0.1, "replicas_max": 11,
        "comparison": "tolerance", "tolerances": {}, "audit": 0.1, "ringers": 2,
        "model_class": "faces", "snapshot": bytes(range(32)).hex(), "crowd": 9, "work": 528,
        "window_s": 1.25,
    }  # fmt: skip
    json.dumps(draft.terms())


@guarded
async def test_a_quorum_job_has_neither_ringers_nor_audits(tmp_path: Path) -> None:
    draft = await prepared(tmp_path, models.matmul(16), {"x": ROWS}, crowd=0, snapshot=bytes(32))
    trust = draft.manifest.trust
    assert (trust.ringers, trust.snapshot, trust.audit_ppm, trust.crowd) == (None, None, 0, 1)
    assert (draft.ringers, draft.ringers_secret) == ((), b"")
    assert draft.terms()["stop"] == "quorum"
    assert (draft.terms()["quorum"], draft.terms()["ringers"]) == (2, 0)

    draft = await prepared(
        tmp_path / "more", models.matmul(16), {"x": ROWS}, ringers=60, audit=1.0,
        tolerances=(OutputTolerance("y", 1_000, 2_000),),
    )  # fmt: skip
    assert [ringer.unit for ringer in draft.ringers] == list(range(60))
    assert draft.terms()["tolerances"] == {"y": [1e-9, 2e-6]}
    assert draft.manifest.trust.audit_ppm == 1_000_000
    everything = {ringer.digest for ringer in draft.ringers}
    assert len(everything) == 60


@guarded
async def test_a_job_that_strangers_cannot_decide_is_warned_of(tmp_path: Path) -> None:
    few = {"confidence": 0.999, "replicas_max": 3, "tolerance": True}
    job = (models.matmul(16), {"x": ROWS[:2]})
    draft = await prepared(tmp_path, *job, **few)
    (warning,) = draft.warnings
    assert "volunteers without a record" in warning
    assert "--replicas-max" in warning
    with pytest.raises(P2pfleetError, match="not published"):
        await prepared(tmp_path, *job, strict=True, **few)
    draft = await prepared(tmp_path, *job, snapshot=bytes(32), **few)
    assert draft.warnings == (), "who has records may well decide it"


@guarded
async def test_a_unit_that_fails_here_is_warned_of(tmp_path: Path) -> None:
    picky = models.model(
        [helper.make_node("Gather", ["w", "x"], ["y"])],
        [("x", TensorProto.INT64, ["n"])],
        [("y", TensorProto.FLOAT, ["n"])],
        {"w": np.ones(3, F32)},
    )
    job = (picky, {"x": np.array([0, 1, 7, 2])})
    draft = await prepared(tmp_path, *job, ringers=4)
    assert [ringer.unit for ringer in draft.ringers] == [0, 1, 3]
    (warning,) = draft.warnings
    assert "unit 2 (first[2:3]) cannot be run" in warning
    with pytest.raises(P2pfleetError, match="not published"):
        await prepared(tmp_path, *job, ringers=4, strict=True)


@guarded
async def test_long_units_have_no_ringers_unless_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ringing, "PATIENCE_MS", 0)
    job = (models.matmul(16), {"x": ROWS[:3]})
    draft = await prepared(tmp_path, *job, confidence=0.9, tolerance=True)
    assert draft.ringers == ()
    assert draft.manifest.trust.ringers is None
    assert "no ringers" in draft.notes[0]
    draft = await prepared(tmp_path, *job, confidence=0.9, tolerance=True, ringers=2)
    assert len(draft.ringers) == 2


@guarded
async def test_a_class_without_a_name_is_refused_before_the_model_is_read(tmp_path: Path) -> None:
    with pytest.raises(P2pfleetError, match="cannot be published"):
        await prepared(tmp_path, b"no model", {"x": ROWS}, model_class="")


# ---- a node publishes it ---------------------------------------------------------------------


class FakeDriver:
    """Remembers in which order things happened, and whether the note was there by then."""

    def __init__(self, folder: Path) -> None:
        self.happened: list[tuple[str, bool, Any]] = []
        self._folder = folder
        self.node = SimpleNamespace(
            me=PeerId(bytes(32)),
            membership=SimpleNamespace(volunteers=lambda: [b"a", b"b", b"c"]),
            snapshot_for=lambda name: (
                SimpleNamespace(hash=bytes(31) + b"s") if name == "faces" else None
            ),
            book=SimpleNamespace(knows=lambda _: True),
        )

    def _noted(self) -> bool:
        return any(self._folder.glob("*.json"))

    async def publish(self, manifest: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.happened.append(("publish", self._noted(), manifest))

    async def submit(self, event: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.happened.append(("submit", self._noted(), event))


@guarded
async def test_ringers_are_noted_before_the_job_is_published_and_told_to_the_core_after(
    tmp_path: Path,
) -> None:
    asked: list[dict[str, Any]] = []
    draft = await prepared(
        tmp_path / "made", models.matmul(16), {"x": ROWS[:4]}, tolerance=True, ringers=2
    )

    async def prepare_job(request: SubmitRequest, **terms: Any) -> Draft:
        await trio.lowlevel.checkpoint()
        asked.append(terms)
        return draft

    driver = FakeDriver(tmp_path / "submitted")
    node = RunningNode(
        config=cast("Any", SimpleNamespace(
            network=SimpleNamespace(id=NetworkId(bytes(32))), data_dir=tmp_path,
        )),
        driver=cast("Any", driver),
        store=cast("Any", None),
        packs=FilePacks(tmp_path / "packs", 2**30, 0),
        network=cast("Any", SimpleNamespace(addresses=())),
        sandbox=cast("Any", None),
        workshop=cast("Any", None),
        prepare_job=prepare_job,
        run_unit=cast("Any", None),
        clock=cast("Any", SimpleNamespace(wall_ms=lambda: 1)),
        disk=cast("Any", None),
        stop=lambda: None,
    )  # fmt: skip
    job = await node.submit(request(model_class="faces"))

    assert asked[0]["crowd"]() == 3
    assert asked[0]["snapshot"] == bytes(31) + b"s"
    assert [(what, noted) for what, noted, _ in driver.happened] == [
        ("publish", True), ("submit", True), ("submit", True),
    ]  # fmt: skip
    told = [event for _, _, event in driver.happened[1:]]
    assert ev.RingersKnown(job, draft.ringers_secret, draft.ringers) in told
    assert packs_known(job, draft.manifest, draft.table) in told
    assert job == sha256(encode(draft.manifest))
    note = json.loads((tmp_path / "submitted" / f"{job.hex()}.json").read_text())
    assert note["ringers"] == [[one.unit, one.digest.hex()] for one in draft.ringers]
    assert bytes.fromhex(note["ringers_secret"]) == draft.ringers_secret
    assert msgspec.convert(note["request"], SubmitRequest) == request(model_class="faces")
    assert len(note["unit_names"]) == 4

    asked.clear()
    driver.happened.clear()
    draft = await prepared(tmp_path / "plain", models.matmul(16), {"x": ROWS[:4]})
    await node.submit(request())
    assert asked[0]["snapshot"] is None
    assert [what for what, _, _ in driver.happened] == ["publish", "submit"]
    assert isinstance(driver.happened[1][2], ev.InputsKnown)
    assert RINGERS_MAX == 128
