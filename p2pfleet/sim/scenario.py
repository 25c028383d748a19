"""A scenario: which machines, jobs, network and faults there are, and what must hold.

Read from TOML, strictly: every mistake is reported at once, unknown keys are mistakes, and sizes
are limited, so that a scenario cannot take more of the machine than a simulation should.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from p2pfleet.core.errors import ExitCode, P2pfleetError

MAX_FILE_BYTES = 64 * 1024
MACHINES_MAX = 512
UNITS_MAX = 20_000
DAY_MS = 24 * 3600 * 1000

Share = Annotated[float, Meta(ge=0, le=1)]
Time = Annotated[int, Meta(ge=0, le=DAY_MS)]
Range = tuple[Time, Time]
Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}\Z")]
Adversary = Literal[
    "",
    "liar",
    "colluder",
    "copier",
    "on-off",
    "sybil",
    "equivocator",
    "free-rider",
    "hoarder",
    "withholder",
    "secretive",
    "spammer",
    "leaver",
    "crook",
    "boaster",
]
FaultKind = Literal["crash", "restart", "pause", "partition", "backup", "die"]


class ScenarioError(P2pfleetError):
    """A scenario with mistakes in it, all of them."""

    def __init__(self, what: str, mistakes: Sequence[str]) -> None:
        lines = "".join(f"\n  - {mistake}" for mistake in mistakes)
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(
            f"{what} has {count}:{lines}\n", "Mend the scenario and try again.", ExitCode.USAGE
        )
        self.mistakes = tuple(mistakes)


class NetworkQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Milliseconds and shares; see :mod:`p2pfleet.sim.network`.

    ``latency_ms`` is drawn once a link, ``jitter_ms`` is the most that a message takes longer;
    ``notice_ms`` is how long a broken connection stays unnoticed; ``degree`` is how many
    connections a machine has on average (0: to everybody).
    """

    latency_ms: Range = (5, 80)
    jitter_ms: Annotated[int, Meta(ge=0, le=60_000)] = 20
    notice_ms: Range = (1, 2_000)
    loss: Share = 0.0
    gossip_loss: Share = 0.0
    reorder: Share = 0.0
    duplicate: Share = 0.0
    degree: Annotated[int, Meta(ge=0, le=64)] = 0


class DiskQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a transaction takes until it is durable, in milliseconds."""

    sync_ms: Range = (1, 8)


class ClockQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most that a wall clock is off (ms) and that any clock drifts (parts per million)."""

    skew_ms: Annotated[int, Meta(ge=0, le=DAY_MS)] = 1_000
    drift_ppm: Annotated[int, Meta(ge=0, le=10_000)] = 50


class MachineKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``count`` machines, called ``name``-0, ``name``-1 and so on.

    ``slots`` 0 makes them publishers only. ``unit_ms`` is what one execution takes, ``fails`` the
    share of executions whose child dies. ``rate`` is how often an adversary does what it does, as
    its file says; ``after_ms`` is when it begins to. Those of one ``ring`` (by default: of one
    kind) agree on what they lie. ``history`` is how many checks the publishers know that they have
    passed before.
    """

    name: Name
    count: Annotated[int, Meta(ge=1, le=MACHINES_MAX)] = 1
    slots: Annotated[int, Meta(ge=0, le=64)] = 1
    unit_ms: Range = (50, 400)
    numeric_class: Annotated[str, Meta(min_length=1, max_length=16)] = "a"
    fails: Share = 0.0
    adversary: Adversary = ""
    rate: Share = 1.0
    after_ms: Time = 0
    ring: Annotated[str, Meta(max_length=32)] = ""
    history: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class JobPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A job that the machine ``publisher`` publishes at ``at_ms``.

    With ``confidence`` it asks for that joint credibility, taking ``assume_faulty`` of its peers
    for faulty; else for a fixed ``quorum``. ``audit`` is the share of units that its publisher
    executes itself, ``ringers`` how many answers it knows beforehand. With ``tolerance`` answers of
    different numeric classes are the same one. ``divergent`` is the share of its units in which
    numeric classes differ. ``cpu_ms`` is what a unit may take at most, ``work`` how many operations
    it counts for (no round number, so that credit is rounded), and after ``lasts_ms`` the job
    expires. ``custodians`` volunteers have all its inputs from the beginning.
    """

    publisher: Annotated[str, Meta(max_length=40)]
    units: Annotated[int, Meta(ge=1, le=UNITS_MAX)]
    quorum: Annotated[int, Meta(ge=1, le=32)] = 2
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] | None = None
    assume_faulty: Annotated[float, Meta(ge=0.000001, le=0.5)] = 0.1
    audit: Share = 0.0
    ringers: Annotated[int, Meta(ge=0, le=128)] = 0
    tolerance: bool = False
    crowd: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    shards: Annotated[int, Meta(ge=1, le=4_096)] = 1
    window_ms: Annotated[int, Meta(ge=100, le=3_600_000)] = 5_000
    replicas_max: Annotated[int, Meta(ge=1, le=64)] = 8
    lease_ms: Annotated[int, Meta(ge=1_000, le=DAY_MS)] = 10_000
    cpu_ms: Annotated[int, Meta(ge=1, le=DAY_MS)] = 60_000
    work: Annotated[int, Meta(ge=0, le=2**53 - 1)] = 1_234_567
    at_ms: Time = 1_000
    lasts_ms: Annotated[int, Meta(ge=1_000, le=DAY_MS)] = DAY_MS
    divergent: Share = 0.0
    custodians: Annotated[int, Meta(ge=0, le=MACHINES_MAX)] = 0


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that goes wrong from ``from_ms`` to ``until_ms``, every ``every_ms``.

    ``machines`` names a kind, or all of them. ``crash`` (loses what is not synced), ``restart``
    (stops as an owner would), ``die`` (never comes back) and ``pause`` strike one machine at a
    time, ``partition`` cuts a random ``share`` of the machines off; each lasts ``for_ms``.
    ``backup`` copies the disk of one machine, and ``for_ms`` later puts that copy in its place.
    """

    kind: FaultKind
    machines: Annotated[str, Meta(max_length=40)] = "all"
    from_ms: Time = 0
    until_ms: Time = 0
    every_ms: Range = (1_000, 5_000)
    for_ms: Range = (500, 5_000)
    share: Share = 0.5


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must hold: wrong results settled and units failed at most, and by when all is over.

    ``within_ms`` counts from the end of the last fault (or from the publication of the last job).
    """

    wrong_settled_max: Annotated[int, Meta(ge=0, le=UNITS_MAX)] = 0
    failed_max: Annotated[int, Meta(ge=0, le=UNITS_MAX)] = 0
    within_ms: Annotated[int, Meta(ge=1_000, le=DAY_MS)] = 600_000


class Scenario(msgspec.Struct, frozen=True):
    """All of it, checked."""

    name: str
    about: str
    network: NetworkQuality
    disk: DiskQuality
    clocks: ClockQuality
    machines: tuple[MachineKind, ...]
    jobs: tuple[JobPlan, ...]
    faults: tuple[Fault, ...]
    expect: Expectation

    @property
    def calm_ms(self) -> int:
        """When the last fault is over and the last job is published."""
        ends = [fault.until_ms + fault.for_ms[1] for fault in self.faults]
        return max([*ends, *(job.at_ms for job in self.jobs)])


def is_simulation(path: Path) -> bool:
    """Whether a scenario file is one for the simulator: it names the kinds of its machines."""
    return b"[[machines]]" in _read(path)


def load_scenario(path: Path) -> Scenario:
    """The scenario in ``path``. Raises :class:`ScenarioError` with every mistake in it."""
    data = _read(path)
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScenarioError(str(path), [f"it is no TOML: {error}"]) from error
    return parse_scenario(table, path.stem, str(path))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise P2pfleetError(
            f"{path} cannot be read: {error.strerror}.", "Name a scenario file.", ExitCode.USAGE
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise ScenarioError(str(path), [f"it is longer than {MAX_FILE_BYTES} bytes"])
    return data


def parse_scenario(table: Mapping[str, Any], name: str, what: str = "the scenario") -> Scenario:
    """A scenario from a decoded TOML table. Raises :class:`ScenarioError`."""
    mistakes: list[str] = []
    known = ("about", "network", "disk", "clocks", "machines", "jobs", "faults", "expect")
    mistakes += [f"{key}: there is no such key" for key in sorted(set(table) - set(known))]
    about = _value(str, table.get("about", ""), "about", mistakes)
    scenario = Scenario(
        name=name,
        about=about if isinstance(about, str) else "",
        network=_section(NetworkQuality, table, "network", mistakes),
        disk=_section(DiskQuality, table, "disk", mistakes),
        clocks=_section(ClockQuality, table, "clocks", mistakes),
        machines=_sections(MachineKind, table, "machines", mistakes),
        jobs=_sections(JobPlan, table, "jobs", mistakes),
        faults=_sections(Fault, table, "faults", mistakes),
        expect=_section(Expectation, table, "expect", mistakes),
    )
    if not mistakes:
        mistakes = _contradictions(scenario)
    if mistakes:
        raise ScenarioError(what, mistakes)
    return scenario


def _value(kind: Any, value: Any, where: str, mistakes: list[str]) -> Any:
    try:
        value = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError as error:
        mistakes.append(f"{where}: {str(error)[:200]}")
        return None
    low_high = value if isinstance(value, tuple) and len(value) == 2 else (0, 0)
    if low_high[0] > low_high[1]:
        mistakes.append(f"{where}: from {low_high[0]} to {low_high[1]} is nothing")
        return None
    return value


def _section(kind: type[Any], table: Mapping[str, Any], name: str, mistakes: list[str]) -> Any:
    return _checked(kind, table.get(name, {}), name, mistakes)


def _sections(
    kind: type[Any], table: Mapping[str, Any], name: str, mistakes: list[str]
) -> tuple[Any, ...]:
    listed = table.get(name, [])
    if not isinstance(listed, list) or len(listed) > MACHINES_MAX:
        mistakes.append(f"{name}: write each of them under [[{name}]], {MACHINES_MAX} at most")
        return ()
    made = [_checked(kind, t, f"{name}[{n}]", mistakes) for n, t in enumerate(listed)]
    return tuple(item for item in made if item is not None)


def _checked(kind: type[Any], table: Any, where: str, mistakes: list[str]) -> Any:
    """A struct from a table, each key judged on its own so that one mistake hides no other."""
    if not isinstance(table, dict):
        mistakes.append(f"{where}: a table is wanted here")
        return None
    before = len(mistakes)
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values = {}
    for key, value in table.items():
        if key in fields:
            values[key] = _value(fields[key].type, value, f"{where}.{key}", mistakes)
        else:
            mistakes.append(f"{where}.{key}: there is no such key")
    for name, field in fields.items():
        if field.required and name not in table:
            mistakes.append(f"{where}.{name}: is missing")
    return kind(**values) if len(mistakes) == before else None


def _contradictions(scenario: Scenario) -> list[str]:
    """What is wrong although each value is right by itself."""
    mistakes = []
    kinds = [kind.name for kind in scenario.machines]
    names = {f"{kind.name}-{n}" for kind in scenario.machines for n in range(kind.count)}
    if len(set(kinds)) < len(kinds) or len(names) < sum(k.count for k in scenario.machines):
        mistakes.append("machines: two have the same name")
    if sum(kind.count for kind in scenario.machines) > MACHINES_MAX:
        mistakes.append(f"machines: more than {MACHINES_MAX} in all")
    if not scenario.jobs:
        mistakes.append("jobs: there is none")
    if sum(job.units for job in scenario.jobs) > UNITS_MAX:
        mistakes.append(f"jobs: more than {UNITS_MAX} units in all")
    for number, job in enumerate(scenario.jobs):
        if job.publisher not in names:
            mistakes.append(f"jobs[{number}].publisher: no machine is called {job.publisher!r}")
        if job.replicas_max < job.quorum:
            mistakes.append(f"jobs[{number}].replicas_max: is less than the quorum")
    for number, fault in enumerate(scenario.faults):
        if fault.machines != "all" and fault.machines not in kinds:
            mistakes.append(f"faults[{number}].machines: no kind is called {fault.machines!r}")
        if fault.until_ms < fault.from_ms:
            mistakes.append(f"faults[{number}].until_ms: is before from_ms")
        if fault.every_ms[0] < 1:
            mistakes.append(f"faults[{number}].every_ms: is at least 1")
    return mistakes
