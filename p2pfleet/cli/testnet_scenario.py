"""A scenario for real processes: which nodes, which job, what is known of them, what must hold.

Scenarios for the simulator name kinds of machines (``[[machines]]``); these say how many processes
to start. Read as strictly: every mistake is reported at once, and unknown keys are mistakes.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from p2pfleet.cli.local_network import MAX_NODES
from p2pfleet.cli.testnet_groups import (
    EVENTS_MAX,
    GROUPS_MAX,
    PUBLISHER,
    Event,
    Group,
    Link,
    Network,
    contradictions,
)
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.job import MAX_SHARDS, Confidence, StopRule
from p2pfleet.core.rules.certificate import missing
from p2pfleet.core.rules.credibility import CHECKS_MAX
from p2pfleet.core.wire.messages import RINGERS_MAX
from p2pfleet.resources import resource_path
from p2pfleet.sim.scenario import MAX_FILE_BYTES, ScenarioError, is_simulation

if TYPE_CHECKING:
    from p2pfleet.submission import SubmitRequest

UNITS_MAX = 100_000
INPUTS_MAX = 10_000

Share = Annotated[float, Meta(ge=0, le=1)]
FilePath = Annotated[str, Meta(min_length=1, max_length=4_096)]
Section = TypeVar("Section", bound=msgspec.Struct)


class JobTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The job that is published, in the words of ``p2pfleet submit``.

    ``model`` and ``inputs`` are files (or folders of inputs), relative to the scenario's own file.
    """

    model: FilePath
    inputs: Annotated[tuple[FilePath, ...], Meta(min_length=1, max_length=INPUTS_MAX)]
    name: Annotated[str, Meta(min_length=1, max_length=100)] = "scenario"
    split: Annotated[str, Meta(max_length=20)] | None = None
    quorum: Annotated[int, Meta(ge=1, le=32)] | None = None
    confidence: Annotated[float, Meta(ge=0.5, lt=1)] | None = None
    assume_faulty: Annotated[float, Meta(ge=0.000001, le=0.5)] | None = None
    replicas_max: Annotated[int, Meta(ge=1, le=64)] | None = None
    tolerance: bool = False
    audit: Share | None = None
    ringers: Annotated[int, Meta(ge=0, le=RINGERS_MAX)] | None = None
    model_class: Annotated[str, Meta(min_length=1, max_length=64)] = "any"
    memory_mb: Annotated[int, Meta(ge=16, le=2**20)] = 512
    cpu_s: Annotated[float, Meta(ge=0.001, le=86_400)] = 60.0
    lease_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    window_s: Annotated[float, Meta(ge=0.1, le=3_600)] | None = None
    shards: Annotated[int, Meta(ge=1, le=MAX_SHARDS)] | None = None


class Expectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What must hold at the end, beside every certificate.

    Wrong answers settled at most; all units settled; every liar with a lower score than every
    honest node; the job over so many seconds after it was published; and no host that sent more
    bytes, from before the job to its end, than ``sent_max`` times the model's size (0: any). Of all
    executions at most the share ``wasted_max`` was for nothing, as ``testnet_waste`` counts them.
    ``everyone``: each honest node gave an answer that is among those that settled.
    """

    wrong_settled_max: Annotated[int, Meta(ge=0, le=UNITS_MAX)] = 0
    all_settled: bool = True
    liars_below: bool = True
    within_s: Annotated[float, Meta(ge=1, le=86_400)] = 600.0
    sent_max: Annotated[float, Meta(ge=0, le=1_000)] = 0.0
    wasted_max: Share | None = None
    everyone: bool = False


class _Nodes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nodes: Annotated[int, Meta(ge=1, le=MAX_NODES)] | None = None
    liars: Annotated[int, Meta(ge=0, le=MAX_NODES)] = 0
    slots: Annotated[int, Meta(ge=1, le=64)] = 1
    history: Annotated[int, Meta(ge=0, le=CHECKS_MAX)] = 0
    about: Annotated[str, Meta(max_length=2_000)] = ""
    network: Network = "loopback"
    seed: Annotated[int, Meta(ge=0, le=2**53)] = 0
    model_mb: Annotated[int, Meta(ge=0, le=1_000)] = 0


class NetworkScenario(msgspec.Struct, frozen=True):
    """All of it, checked.

    ``nodes`` processes with ``slots`` units at once each; the last ``liars`` of them answer every
    unit with the same wrong bytes, so that they agree without a word. ``history`` is how many
    checks the publisher's records hold of every node when the job begins, liars included: they
    built a record first. Paths in ``job`` are absolute.

    ``groups`` are these nodes in order, if the file names any; with ``network`` "namespaces" each
    has a host of its own, and so has the publisher. ``events`` count from the job's publication.
    ``model_mb``: the model's file is made that large (MB of 10^6 bytes), without another meaning.
    """

    name: str
    about: str
    nodes: int
    liars: int
    slots: int
    history: int
    job: JobTerms
    expect: Expectation
    network: Network = "loopback"
    seed: int = 0
    model_mb: int = 0
    groups: tuple[Group, ...] = ()
    publisher: Link = Link()
    events: tuple[Event, ...] = ()

    @property
    def staged(self) -> bool:
        """Whether the publisher is a process of its own, to which things can happen."""
        return self.network == "namespaces" or bool(self.events)

    @property
    def honest(self) -> int:
        """How many nodes do not lie."""
        return self.nodes - self.liars

    def request(self) -> SubmitRequest:
        """The job as a node is asked to publish it."""
        from p2pfleet.submission import SubmitRequest

        return msgspec.convert(msgspec.to_builtins(self.job), SubmitRequest)


def find_scenario(named: str) -> Path:
    """The file that is meant: a path, or the name of one in testnet/scenarios."""
    if named.endswith(".toml") or "/" in named:
        return Path(named)
    return resource_path("testnet", "scenarios", f"{named}.toml")


def load_network_scenario(path: Path) -> NetworkScenario:
    """The scenario in ``path``. Raises :class:`ScenarioError` with every mistake in it, and
    :class:`P2pfleetError` if it cannot be read or is one for the simulator."""
    if is_simulation(path):
        raise P2pfleetError(
            f"{path} is a scenario for the simulator: it names kinds of machines.",
            f"Run it with: p2pfleet sim {path}",
            ExitCode.USAGE,
        )
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES)
    try:
        table = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ScenarioError(str(path), [f"it is no TOML: {error}"]) from error
    return parse_network_scenario(table, path.stem, path.absolute().parent, str(path))


def parse_network_scenario(
    table: Mapping[str, Any], name: str, folder: Path, what: str = "the scenario"
) -> NetworkScenario:
    """A scenario from a decoded TOML table whose paths are relative to ``folder``.

    Raises :class:`ScenarioError`.
    """
    mistakes: list[str] = []
    sections = ("job", "expect", "groups", "publisher", "events")
    top = {key: value for key, value in table.items() if key not in sections}
    nodes = _section(_Nodes, top, "", mistakes)
    if "job" not in table:
        mistakes.append("job: is missing")
    job = _section(JobTerms, table.get("job", {}), "job", mistakes) if "job" in table else None
    expect = _section(Expectation, table.get("expect", {}), "expect", mistakes)
    groups = _sections(Group, table.get("groups", []), "groups", GROUPS_MAX, mistakes)
    publisher = _section(Link, table.get(PUBLISHER, {}), PUBLISHER, mistakes)
    events = _sections(Event, table.get("events", []), "events", EVENTS_MAX, mistakes)
    count = sum(group.count for group in groups)
    if "nodes" not in table and "groups" not in table:
        mistakes.append("nodes: is missing")
    if "nodes" in table and "groups" in table:
        mistakes.append("nodes: the groups say how many there are")
    if count > MAX_NODES:
        mistakes.append(f"groups: {count} nodes are more than {MAX_NODES}")
    if nodes is None or job is None or expect is None or publisher is None or mistakes:
        raise ScenarioError(what, mistakes)
    scenario = NetworkScenario(
        name=name,
        about=nodes.about,
        nodes=nodes.nodes or count,
        liars=nodes.liars,
        slots=nodes.slots,
        history=nodes.history,
        job=msgspec.structs.replace(
            job,
            model=str(folder / job.model),
            inputs=tuple(str(folder / one) for one in job.inputs),
        ),
        expect=expect,
        network=nodes.network,
        seed=nodes.seed,
        model_mb=nodes.model_mb,
        groups=groups or (Group(name="all", count=nodes.nodes or 1),),
        publisher=publisher,
        events=events,
    )
    mistakes = _contradictions(scenario)
    if mistakes:
        raise ScenarioError(what, mistakes)
    return scenario


def _sections(
    kind: type[Section], tables: Any, where: str, most: int, mistakes: list[str]
) -> tuple[Section, ...]:
    """Structs from a list of tables; those without mistakes."""
    if not isinstance(tables, list) or len(tables) > most:
        mistakes.append(f"{where}: {most} tables [[{where}]] at most are wanted here")
        return ()
    read = [
        _section(kind, table, f"{where}.{number}", mistakes) for number, table in enumerate(tables)
    ]
    return tuple(one for one in read if one is not None)


def _section(kind: type[Section], table: Any, where: str, mistakes: list[str]) -> Section | None:
    """A struct from a table, each key judged on its own so that one mistake hides no other."""
    if not isinstance(table, dict):
        mistakes.append(f"{where}: a table is wanted here")
        return None
    before = len(mistakes)
    prefix = f"{where}." if where else ""
    fields = {field.name: field for field in msgspec.structs.fields(kind)}
    values = {}
    for key, value in table.items():
        if key not in fields:
            mistakes.append(f"{prefix}{key[:100]}: there is no such key")
            continue
        try:
            values[key] = msgspec.convert(value, fields[key].type, strict=True)
        except msgspec.ValidationError as error:
            mistakes.append(f"{prefix}{key}: {str(error)[:200]}")
    for name, field in fields.items():
        if field.required and name not in table:
            mistakes.append(f"{prefix}{name}: is missing")
    return kind(**values) if len(mistakes) == before else None


def _contradictions(scenario: NetworkScenario) -> list[str]:
    """What is wrong although each value is right by itself."""
    from p2pfleet.adapters.inputs import parse_split
    from p2pfleet.submission import stop_of

    job = scenario.job
    mistakes = contradictions(
        scenario.network, scenario.groups, scenario.publisher, scenario.events
    )
    if scenario.expect.sent_max and scenario.network != "namespaces":
        mistakes.append('expect.sent_max: bytes are counted with network = "namespaces" only')
    if scenario.expect.wasted_max is not None and not (job.quorum and scenario.staged):
        mistakes.append("expect.wasted_max: wants a quorum, and events or hosts of their own")
    if scenario.liars >= scenario.nodes:
        mistakes.append(f"liars: {scenario.liars} of {scenario.nodes} nodes leave no honest one")
    for key, path, kind in (
        ("model", job.model, "file"),
        *(("inputs", one, "file or folder") for one in job.inputs),
    ):
        found = Path(path)
        if not found.is_file() and not (key == "inputs" and found.is_dir()):
            mistakes.append(f"job.{key}: there is no {kind} {path}")
    if job.split is not None:
        try:
            parse_split(job.split)
        except P2pfleetError as error:
            mistakes.append(f"job.split: {error.message}")
    try:
        stop = stop_of(scenario.request())
    except P2pfleetError as error:
        return [*mistakes, f"job: {error.message}"]
    return mistakes + _unreachable(scenario, stop)


def _unreachable(scenario: NetworkScenario, stop: StopRule) -> list[str]:
    """Why the honest nodes alone could not have a unit certified, if they could not."""
    known = isinstance(stop, Confidence) and scenario.history > 0
    checks = scenario.history if known else 0
    needed = missing(stop, (), (), checks, known)
    if needed <= scenario.honest:
        return []
    return [
        f"job: a unit needs {needed} votes that agree, of nodes with {checks} checks each, and "
        f"only {scenario.honest} nodes are honest"
    ]
