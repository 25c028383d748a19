"""A machine's sandbox and its blobs: units take time, may fail, and need inputs from somebody.

An output is known by its digest alone; :func:`output_of` stands for its bytes where a commitment
needs them. Who does not have it on disk can neither commit to it nor open commitments to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Protocol

from p2pfleet.core import effects as ef
from p2pfleet.core import events as ev
from p2pfleet.core.events import KnownPacks
from p2pfleet.core.model.comparison import Tolerance
from p2pfleet.core.model.ids import Digest, JobId, NetworkId, PeerId
from p2pfleet.core.rules.commitment import SEED_BYTES, commitment
from p2pfleet.core.rules.shards import units_of
from p2pfleet.core.wire.messages import Manifest, RevealItem
from p2pfleet.core.wire.verified import VerifiedManifest
from p2pfleet.sim.disk import Disk
from p2pfleet.sim.kernel import Kernel
from p2pfleet.sim.scenario import MachineKind
from p2pfleet.sim.signatures import unseal

NETWORK = NetworkId(hashlib.sha256(b"p2pfleet simulated network").digest())
OUTPUT_BYTES = 100
INPUT_BYTES = 100
PACK_UNITS = 16
FETCH_MS = (10, 150)
READ_MS = (1, 10)

Task = tuple[JobId, int]
Answer = tuple[Digest, bool]
"""What a machine votes for, and whether it keeps an output with this digest."""


def right_digest(salt: bytes, unit: int, numeric_class: str, divergent: float) -> Digest:
    """The digest that an honest machine of a numeric class gets.

    In a share ``divergent`` of a job's units the classes differ among each other.
    """
    plain = hashlib.sha256(salt + unit.to_bytes(8, "big")).digest()
    if divergent and int.from_bytes(plain[:4], "big") < divergent * 2**32:
        plain = hashlib.sha256(plain + numeric_class.encode()).digest()
    return Digest(plain)


def right_digests(
    salt: bytes, unit: int, classes: Iterable[str], divergent: float
) -> frozenset[Digest]:
    """What honest machines of these numeric classes get."""
    return frozenset(right_digest(salt, unit, one, divergent) for one in classes)


@lru_cache(maxsize=64)
def packs_of(salt: bytes, units: int, shards: int) -> Mapping[Digest, tuple[int, Sequence[int]]]:
    """The packs of a job of so many units: of which shard each is, and whose inputs lie in it."""
    packs: dict[Digest, tuple[int, Sequence[int]]] = {}
    for shard in range(shards):
        numbers = units_of(salt, units, shards, shard)
        for first in range(0, len(numbers), PACK_UNITS):
            part = numbers[first : first + PACK_UNITS]
            name = hashlib.sha256(b"pack" + salt + part[0].to_bytes(8, "big"))
            packs[Digest(name.digest())] = (shard, part)
    return packs


def told_of(packs: Mapping[Digest, tuple[int, Sequence[int]]]) -> KnownPacks:
    """What a unit table says of them."""
    return tuple(
        (digest, INPUT_BYTES * len(units), (shard,)) for digest, (shard, units) in packs.items()
    )


def output_of(digest: Digest) -> bytes:
    """What stands for the bytes of the output with this digest."""
    return b"output of " + digest


class Host(Protocol):
    """What the sandbox needs of its machine."""

    peer: PeerId
    kind: MachineKind
    disk: Disk
    life: int

    def tell(self, event: ev.Event) -> None:
        """Tell the core."""
        ...

    def answer(self, job: JobId, unit: int) -> Answer | None:
        """What running a unit gives here; ``None``: it never ends."""
        ...

    def unit_ms(self) -> int:
        """How long the next execution takes."""
        ...

    def packs(self, job: JobId) -> Mapping[Digest, tuple[int, Sequence[int]]]:
        """The packs of a job: of which shard each is, and which units' inputs lie in it."""
        ...

    def keeps(self, digest: Digest) -> bool:
        """Whether what it fetches to keep is really kept; honestly: yes."""
        ...

    def committed_bytes(self, digest: Digest) -> bytes | None:
        """What is committed to for an output that is not here; honestly: nothing."""
        ...

    def right_digests(self, job: JobId, unit: int) -> Collection[Digest]:
        """What honest machines get for a unit, those of every numeric class in the world."""
        ...

    def reach(self, sources: Sequence[PeerId], output: Digest | None = None) -> list[Disk]:
        """The disks of those sources that are connected and serve what they have.

        With ``output``, of those that would let this machine have that output now.
        """
        ...


Order = (
    ef.OpenJob
    | ef.Execute
    | ef.Withdraw
    | ef.ShutJob
    | ef.SetPaused
    | ef.Fetch
    | ef.Challenge
    | ef.MakeCommitments
    | ef.CheckCommitments
    | ef.Compare
)


class Compute:
    """Runs what the core asks for in ``slots`` children; all of it ends with the power.

    Units of jobs that this machine publishes take no slot: they run beside, one at a time.
    """

    def __init__(self, kernel: Kernel, host: Host) -> None:
        self.kernel, self.host = kernel, host
        self.executed = self.audited = 0
        self.clear()

    def clear(self) -> None:
        """The machine went off."""
        self.paused = False
        self._tokens = 0
        self._open: dict[JobId, bool] = {}
        self._own: dict[JobId, bool] = {}
        self._shuts: dict[JobId, int] = {}
        # Units that wait, those of strangers' jobs and those of this machine's own.
        self._queues: dict[bool, dict[Task, tuple[PeerId, ...]]] = {False: {}, True: {}}
        self._under_way: dict[Task, int] = {}
        self._frozen: list[tuple[Task, int]] = []

    @property
    def busy(self) -> int:
        """Units that run now."""
        return len(self._under_way)

    def act(self, effect: Order) -> None:
        """Begin what the core asked for."""
        match effect:
            case ef.OpenJob(job=job):
                self._for_job(job, FETCH_MS, self._opened, effect)
            case ef.Fetch(job=job):
                self._for_job(job, FETCH_MS, self._fetched, effect)
            case ef.Challenge(job=job):
                self._for_job(job, FETCH_MS, self._challenged, effect)
            case ef.MakeCommitments(job=job):
                self._for_job(job, READ_MS, self._commit, effect)
            case ef.CheckCommitments(job=job):
                self._for_job(job, READ_MS, self._check, effect)
            case ef.Compare(job=job):
                self._for_job(job, FETCH_MS, self._compare, effect)
            case ef.Execute(job=job, unit=unit):
                task = (job, unit)
                if job in self._open and task not in self._under_way:
                    self._queues[self._is_own(task)].setdefault(task, effect.sources)
                    self._work()
            case ef.Withdraw(job=job, units=units, kill=kill):
                for unit in units:
                    for queue in self._queues.values():
                        queue.pop((job, unit), None)
                    if kill:
                        self._under_way.pop((job, unit), None)
                self._work()
            case ef.ShutJob(job=job, keep=keep):
                self._open.pop(job, None)
                self._shuts[job] = self._shuts.get(job, 0) + 1
                for queue in self._queues.values():
                    for task in [task for task in queue if task[0] == job]:
                        del queue[task]
                self._under_way = {t: s for t, s in self._under_way.items() if t[0] != job}
                if not keep:
                    self.host.disk.drop_blobs(job)
                self._work()
            case ef.SetPaused(paused=paused):
                self.paused = paused
                frozen, self._frozen = self._frozen, []
                for task, token in frozen:
                    self.kernel.later(0, self._alive, self.host.life, self._finish, (task, token))
                self._work()

    def _later(self, span: tuple[int, int], act: Callable[..., None], *what: object) -> None:
        self.kernel.later(self.kernel.draw(span), self._alive, self.host.life, act, what)

    def _for_job(
        self, job: JobId, span: tuple[int, int], act: Callable[..., None], *what: object
    ) -> None:
        """Plan something for a job; nothing comes of it once the job is shut."""
        self._later(span, self._unless_shut, job, self._shuts.get(job, 0), act, what)

    def _unless_shut(
        self, job: JobId, shuts: int, act: Callable[..., None], what: tuple[object, ...]
    ) -> None:
        if shuts == self._shuts.get(job, 0):
            act(*what)

    def _alive(self, life: int, act: Callable[..., None], what: tuple[object, ...]) -> None:
        if life == self.host.life:
            act(*what)

    # ---- blobs -------------------------------------------------------------------------------

    def _opened(self, effect: ef.OpenJob) -> None:
        job, disk = effect.job, self.host.disk
        if job not in disk.models and any(
            job in near.models for near in self.host.reach(effect.sources)
        ):
            disk.models[job] = True
        if job in disk.models:
            self._open[job] = True
            self._own[job] = effect.manifest.publisher == self.host.peer
            packs = self.host.packs(job)
            if packs:
                self.host.tell(ev.InputsKnown(job, told_of(packs)))
            self.host.tell(ev.JobOpened(job))
        else:
            self.host.tell(ev.JobUnavailable(job, "nobody here has the model", final=False))

    def _fetched(self, effect: ef.Fetch) -> None:
        job, ref = effect.job, effect.ref
        digest = Digest(ref.sha256)
        if not self.host.keeps(digest):
            self.host.tell(ev.BlobArrived(job, ref))
            return
        manifest = self._manifest(job)
        if digest in self.host.packs(job):
            self._fetched_pack(effect, digest)
        elif manifest is not None and ref.cid == manifest.model and job in self.host.disk.models:
            self.host.tell(ev.BlobArrived(job, ref))
        elif self._can_be_had(job, digest, ref.length, effect.sources):
            self.host.disk.outputs.setdefault(job, {})[digest] = ref.length
            self.host.tell(ev.BlobArrived(job, ref))
        else:
            self.host.tell(ev.BlobFailed(job, ref, "nobody here has the output"))

    def _fetched_pack(self, effect: ef.Fetch, digest: Digest) -> None:
        job, ref, disk = effect.job, effect.ref, self.host.disk
        near = [disk, *self.host.reach(effect.sources)]
        if any(digest in each.packs.get(job, {}) for each in near):
            disk.packs.setdefault(job, {})[digest] = True
            mine = disk.inputs.setdefault(job, {})
            mine.update((unit, True) for unit in self.host.packs(job)[digest][1])
            self.host.tell(ev.BlobArrived(job, ref))
        else:
            self.host.tell(ev.BlobFailed(job, ref, "nobody here has the pack"))

    def _challenged(self, effect: ef.Challenge) -> None:
        job, digest, disk = effect.job, effect.digest, self.host.disk
        if not disk.has_blob(job, digest):
            verdict = "lost"
        else:
            public = disk.is_input(job, digest)
            near = self.host.reach((effect.peer,), None if public else digest)
            verdict = "good" if any(each.has_blob(job, digest) for each in near) else "absent"
        self.host.tell(ev.ChallengeAnswered(job, digest, effect.peer, verdict))

    def _can_be_had(
        self, job: JobId, digest: Digest, length: int, sources: Sequence[PeerId]
    ) -> bool:
        """Whether an output is here or somebody sends it."""
        disks = [self.host.disk, *self.host.reach(sources, digest)]
        return any(disk.outputs.get(job, {}).get(digest) == length for disk in disks)

    def _has_input(self, task: Task, sources: tuple[PeerId, ...]) -> bool:
        job, unit = task
        mine = self.host.disk.inputs.setdefault(job, {})
        if unit not in mine and any(
            unit in near.inputs.get(job, {}) for near in self.host.reach(sources)
        ):
            mine[unit] = True
        return unit in mine

    # ---- kept outputs ------------------------------------------------------------------------

    def _commit(self, effect: ef.MakeCommitments) -> None:
        job, kept = effect.job, self.host.disk.outputs.get(effect.job, {})
        seed = self.kernel.random.randbytes(SEED_BYTES)
        items: list[RevealItem] = []
        made: list[bytes] = []
        me = self.host.peer
        for item in effect.items:
            output = output_of(item.digest) if item.digest in kept else None
            output = self.host.committed_bytes(item.digest) if output is None else output
            if output is not None:
                items.append(item)
                made.append(commitment(NETWORK, job, item.unit, item.attempt, me, seed, output))
        self.host.tell(ev.CommitmentsMade(job, seed, tuple(items), tuple(made)))
        for item in effect.items:
            if item not in items:
                self.host.tell(ev.UnitUnavailable(job, item.unit, "the output is not here"))

    def _check(self, effect: ef.CheckCommitments) -> None:
        job, digest = effect.job, effect.digest
        if digest not in self.host.disk.outputs.get(job, {}):
            lost = tuple((item.unit, item.attempt, item.peer) for item in effect.items)
            self.host.tell(ev.CommitmentsChecked(job, digest, (), (), lost))
            return
        output = output_of(digest)
        good: list[tuple[int, int, PeerId]] = []
        bad: list[tuple[int, int, PeerId]] = []
        for item in effect.items:
            right = commitment(NETWORK, job, item.unit, item.attempt, item.peer, item.seed, output)
            found = good if right == item.commitment else bad
            found.append((item.unit, item.attempt, item.peer))
        self.host.tell(ev.CommitmentsChecked(job, digest, tuple(good), tuple(bad)))

    def _compare(self, effect: ef.Compare) -> None:
        job, unit, candidate = effect.job, effect.unit, Digest(effect.candidate.sha256)
        manifest = self._manifest(job)
        if (
            manifest is None
            or effect.own not in self.host.disk.outputs.get(job, {})
            or not self._can_be_had(job, candidate, effect.candidate.length, effect.sources)
        ):
            verdict = "unavailable"
        elif candidate == effect.own:
            verdict = "same"
        elif {candidate, effect.own} <= set(self.host.right_digests(job, unit)):
            verdict = "same" if isinstance(manifest.comparison, Tolerance) else "near"
        else:
            verdict = "different"
        self.host.tell(ev.Compared(job, unit, candidate, effect.own, verdict))

    def _manifest(self, job: JobId) -> Manifest | None:
        stored = self.host.disk.jobs.get(job)
        if stored is None:
            return None
        verified = unseal(stored.manifest)
        assert isinstance(verified, VerifiedManifest)
        return verified.manifest

    # ---- units -------------------------------------------------------------------------------

    def _is_own(self, task: Task) -> bool:
        return self._own.get(task[0], False)

    def _work(self) -> None:
        for own, queue in self._queues.items():
            slots = 1 if own else self.host.kind.slots
            while queue and not self.paused:
                if sum(self._is_own(task) is own for task in self._under_way) >= slots:
                    break
                task = next(iter(queue))
                sources = queue.pop(task)
                self._tokens += 1
                self._under_way[task] = self._tokens
                known = task[1] in self.host.disk.inputs.get(task[0], {})
                self._later((0, 0) if known else FETCH_MS, self._begin, task, self._tokens, sources)

    def _begin(self, task: Task, token: int, sources: tuple[PeerId, ...]) -> None:
        if self._under_way.get(task) != token:
            return
        if not self._has_input(task, sources):
            del self._under_way[task]
            self.host.tell(ev.UnitUnavailable(*task, "nobody here has the input"))
            self._work()
            return
        wall_ms = self.host.unit_ms()
        self._later((wall_ms, wall_ms), self._finish, task, token, wall_ms)

    def _finish(self, task: Task, token: int, wall_ms: int = 1) -> None:
        if self._under_way.get(task) != token:
            return
        if self.paused:
            self._frozen.append((task, token))
            return
        self.executed += 1
        self.audited += self._is_own(task)
        if self.kernel.chance(self.host.kind.fails):
            kind = ("wall", "crash", "killed")[self.kernel.random.randrange(3)]
            del self._under_way[task]
            self.host.tell(ev.UnitFaulted(*task, kind, "the child died"))
        else:
            answer = self.host.answer(*task)
            del self._under_way[task]
            if answer is not None:  # else it is kept back, and its slot is free
                digest, kept = answer
                if kept:
                    self.host.disk.outputs.setdefault(task[0], {})[digest] = OUTPUT_BYTES
                self.host.tell(ev.UnitExecuted(*task, digest, OUTPUT_BYTES, wall_ms))
        self._work()
