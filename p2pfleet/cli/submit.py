"""``submit``: publish a job, through the running node or with one of its own."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pfleet.cli.control import client_of
from p2pfleet.cli.custody import PATIENCE_S as KEEP_PATIENCE_S
from p2pfleet.cli.custody import keep_inside, keep_through
from p2pfleet.cli.folders import Place, join_network, remembered_network, set_up
from p2pfleet.cli.identity_making import make_identity
from p2pfleet.cli.interruptions import Interruptions
from p2pfleet.cli.logs import log_to_file
from p2pfleet.cli.options import common, located
from p2pfleet.cli.output import CommandFailed, Output, exit_codes
from p2pfleet.cli.request import alone_tolerances, make_request
from p2pfleet.cli.results_folder import check_results_folder
from p2pfleet.cli.waiting import PATIENCE_S, outcome, succeeded, wait_inside, wait_through
from p2pfleet.config.network_file import load_network
from p2pfleet.config.node_file import NODE_FILE, load_config
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.job import MAX_SHARDS, WINDOW_MAX_MS, WINDOW_MIN_MS, Trust
from p2pfleet.core.rules.shards import CROWD
from p2pfleet.core.wire.messages import RINGERS_MAX

if TYPE_CHECKING:
    from p2pfleet.adapters.control.client import ControlClient
    from p2pfleet.app import RunningNode


class _Submit(click.Command):
    """``--tolerance`` may stand alone or have a value, whatever follows it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, alone_tolerances(args))


@click.command(cls=_Submit, epilog=exit_codes(ExitCode.NO_PEERS, ExitCode.DAMAGED, ExitCode.UNKEPT))
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.argument("inputs", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--quorum", type=click.IntRange(1, 32),
    help="How many volunteers have to agree on a unit (default: 2).",
)  # fmt: skip
@click.option(
    "--confidence", metavar="THETA", type=click.FloatRange(0.5, 1, max_open=True),
    help="Instead: how sure to be of each unit, as 0.999; as many agree as that takes.",
)  # fmt: skip
@click.option(
    "--assume-faulty", metavar="SHARE", type=click.FloatRange(0, 0.5, min_open=True),
    help="With --confidence: the share of volunteers taken for faulty (default: 0.1).",
)  # fmt: skip
@click.option(
    "--replicas-max", type=click.IntRange(1, 64),
    help="Give a unit up after so many replicas (default: twice what has to agree, and 3).",
)  # fmt: skip
@click.option("--exact", is_flag=True, help="Outputs agree if every byte does (the default).")
@click.option(
    "--tolerance", "tolerances", metavar="[NAME=ABS,REL]", multiple=True,
    help="Floating outputs agree if they are near enough; for the output NAME: within "
    "ABS + REL x its largest element, as in y=1e-6,1e-4. May be repeated.",
)  # fmt: skip
@click.option(
    "--audit", metavar="SHARE", type=click.FloatRange(0, 1),
    help="Execute so many of the certified units here as well (default: 0.1 with --confidence, "
    "else 0).",
)  # fmt: skip
@click.option(
    "--ringers", metavar="N", type=click.IntRange(0, RINGERS_MAX),
    help="Execute N hidden units here beforehand, to test volunteers by (default with "
    "--confidence: 2 % of the units, 30 s of them at most; else none).",
)  # fmt: skip
@click.option(
    "--model-class", metavar="NAME", default="any", show_default=True,
    help="The kind of work, by which records of volunteers are kept.",
)  # fmt: skip
@click.option(
    "--split", metavar="AXIS[:SIZE]", help="Cut inputs along AXIS into units of SIZE (default 1)."
)
@click.option("--name", help="What people will call the job (default: the model's file name).")
@click.option(
    "--memory-mb", type=click.IntRange(16, 2**20), default=512, show_default=True,
    help="Memory that a unit may take.",
)  # fmt: skip
@click.option(
    "--cpu-s", type=click.FloatRange(0.001, 86400), default=60.0, show_default=True,
    help="Processor seconds that a unit may take.",
)  # fmt: skip
@click.option(
    "--output-mb", type=click.IntRange(1, 4096), default=64, show_default=True,
    help="Size that a unit's outputs may have.",
)  # fmt: skip
@click.option(
    "--lease-s", type=click.FloatRange(1, 86400), default=30.0, show_default=True,
    help="How long a volunteer may hold a unit without an answer.",
)  # fmt: skip
@click.option(
    "--window", "window_s", metavar="SECONDS",
    type=click.FloatRange(WINDOW_MIN_MS / 1000, WINDOW_MAX_MS / 1000),
    help="How long a volunteer that has an answer waits for others to have one, before it says "
    f"which (default: {Trust().window_ms / 1000:g}). Raise it where units take some volunteers "
    "longer than others.",
)  # fmt: skip
@click.option(
    "--shards", type=click.IntRange(1, MAX_SHARDS), metavar="NUMBER",
    help="In how many parts the units are worked on, each by volunteers of its own (default: one "
    f"for each {CROWD} volunteers that are connected). More of them for a network that is larger "
    "than what is seen from here.",
)  # fmt: skip
@click.option(
    "--expires-h", type=click.FloatRange(0.01, 720), default=24.0, show_default=True,
    help="When volunteers may forget the job; 30 days at most.",
)  # fmt: skip
@click.option(
    "--strict", is_flag=True,
    help="Refuse what would be warned of: above all a job whose answer depends on the last digits.",
)  # fmt: skip
@click.option("--wait", is_flag=True, help="Wait until the job is over.")
@click.option(
    "--detach", is_flag=True,
    help="Return as soon as three volunteers keep the model and every input: then this machine may "
    "go, and come back for the results.",
)  # fmt: skip
@click.option("--wait-for-peers", is_flag=True, help="Wait for volunteers however long it takes.")
@click.option(
    "--output", "folder", metavar="DIR", type=click.Path(path_type=Path),
    help="Wait, then write the results to DIR (new or empty).",
)  # fmt: skip
@located
@common
@click.pass_obj
def submit(
    output: Output,
    /,
    place: Place,
    model: Path,
    inputs: tuple[Path, ...],
    folder: Path | None,
    wait: bool,
    detach: bool,
    wait_for_peers: bool,
    **terms: Any,
) -> int:
    """Publish a job: run MODEL.onnx on every one of INPUTS.

    INPUTS are .npz or .npy files, or folders of them; each file is one work unit unless --split
    cuts it. The first line printed is the job's id; by then the job is on disk and survives
    everything.

    Before that the model and all inputs are checked, and the first unit is run three times in the
    local sandbox: volunteers' processors round differently, so a job whose answer changes when its
    input moves by a millionth is warned of (or refused, with --strict).

    Volunteers are strangers: with --confidence a unit is decided when the records of those who
    agree make its answer right with that probability, tested by hidden units whose answers this
    machine knows and by executing some of the certified ones again.

    If a node runs in the data folder it publishes the job. Else this command is the publisher until
    the job is over; when it is interrupted, 'p2pfleet run' goes on with the job.

    With --detach the publisher may leave: volunteers finish the job and keep the results until it
    comes back ('p2pfleet job results', or 'p2pfleet run'), or the job expires.
    """
    if detach and (wait or folder is not None):
        raise P2pfleetError(
            "--detach returns before there are results, --wait and --output wait for them.",
            "Leave one of them out.",
            ExitCode.USAGE,
        )
    request = make_request(model, inputs, **terms)
    results = check_results_folder(folder) if folder is not None else None
    patience_s = None if wait_for_peers else PATIENCE_S
    client = client_of(place)
    findings = Findings()
    try:
        if client.alive():
            must_wait = wait or detach or wait_for_peers or results is not None
            waits = patience_s if must_wait else -1.0
            found = _submit_through(
                client, place, output, request, results, waits, findings, detach
            )
        else:
            found = _submit_embedded(place, output, request, results, patience_s, findings, detach)
    except CommandFailed as failed:
        failed.document.setdefault("warnings", findings.warnings)
        failed.document.setdefault("terms", findings.terms)
        raise
    return _finish(output, found, results, findings, _where(place) if detach else None)


class Findings:
    """What the checks found that did not stop the job, and the ``terms`` that the job got."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.notes: list[str] = []
        self.terms: dict[str, Any] = {}

    def add(self, warnings: Sequence[str], notes: Sequence[str], terms: Mapping[str, Any]) -> None:
        """Remember more of them."""
        self.warnings += warnings
        self.notes += notes
        self.terms.update(terms)

    def show(self, output: Output) -> None:
        """Tell the person who publishes; the warnings stand in the JSON document as well."""
        for text in self.warnings:
            output.note(f"warning: {text}")
        for text in self.notes:
            output.note(f"note: {text}")


# ---- through the running node ----------------------------------------------------------------


def _submit_through(
    client: ControlClient,
    place: Place,
    output: Output,
    request: dict[str, Any],
    results: Path | None,
    patience_s: float | None,
    findings: Findings,
    detach: bool = False,
) -> dict[str, Any]:
    """Publish with the node behind ``client``; negative patience: do not wait at all."""
    network = client.call("status")["network"]
    if place.network is not None and load_network(place.network).id.hex() != network["id"]:
        raise P2pfleetError(
            f"the node in {place.folder} is on the network {network['name']!r}, which "
            f"{place.network} is not.",
            "Leave --data-dir out, or choose another one for that network.",
            ExitCode.USAGE,
        )
    answer = client.call("submit", **request)
    job: str = answer["job"]
    output.early(job)
    findings.add(answer.get("warnings", ()), answer.get("notes", ()), answer.get("terms", {}))
    findings.show(output)
    if patience_s is not None and patience_s < 0:
        found: dict[str, Any] = client.call("job", job=job)
        return found
    where = _where(place)
    try:
        with Interruptions().raised():
            if detach:
                patience = None if patience_s is None else KEEP_PATIENCE_S
                keep = "keep this node running until the job is over"
                return keep_through(client, job, output, patience, keep)
            found = wait_through(
                client, job, output, patience_s, "The node keeps the job and goes on with it."
            )
            if results is not None:
                client.call("results", job=job, output=str(results))
    except KeyboardInterrupt:
        raise CommandFailed(
            "interrupted.",
            f"The node goes on with the job: p2pfleet job watch {job[:12]}{where}",
            ExitCode.INTERRUPTED,
            {"job": {"id": job}},
        ) from None
    return found


# ---- with a node of our own ------------------------------------------------------------------


def _submit_embedded(
    place: Place,
    output: Output,
    request: dict[str, Any],
    results: Path | None,
    patience_s: float | None,
    findings: Findings,
    detach: bool = False,
) -> dict[str, Any]:
    from p2pfleet.cli.embedded import with_node

    ready_folder(place)
    config = load_config(None, data_dir=place.folder, network=place.network, roles=("publisher",))
    log_to_file(config.data_dir / "submit.log", "debug" if output.debug else config.log_level)
    where = f" --data-dir {shlex.quote(str(config.data_dir))}"
    go_on = f"The job is kept, and goes on with: p2pfleet run{where}"
    published: list[str] = []

    async def publish(node: RunningNode) -> dict[str, Any]:
        import msgspec

        from p2pfleet.app import SubmitRequest

        job = await node.submit(
            msgspec.convert(request, SubmitRequest),
            lambda draft: findings.add(draft.warnings, draft.notes, draft.terms()),
        )
        published.append(job.hex())
        output.early(job.hex())
        findings.show(output)
        if detach:
            patience = None if patience_s is None else KEEP_PATIENCE_S
            keep = f"p2pfleet run{where}"
            return await keep_inside(node, job, output, patience, keep)
        found = await wait_inside(node, job, output, patience_s, go_on)
        if results is not None:
            await node.results(job, results)
        return found

    interrupted = True
    try:
        with Interruptions().raised():
            make_identity(output, config.data_dir, config.network)
            ended = with_node(
                config, publish, stop_note=lambda: output.note("stopping (again: at once)")
            )
        if ended.result is not None:
            return ended.result
        interrupted = ended.interrupted
    except KeyboardInterrupt:
        pass
    if not published:
        raise P2pfleetError(
            "interrupted before the job was published.", "Nothing is left of it.",
            ExitCode.INTERRUPTED,
        )  # fmt: skip
    raise CommandFailed(
        "interrupted." if interrupted else "the node was told to stop.",
        f"{go_on}   Its results then: p2pfleet job results {published[0][:12]} --output DIR{where}",
        ExitCode.INTERRUPTED if interrupted else ExitCode.FAILED,
        {"job": {"id": published[0]}},
    )


def ready_folder(place: Place) -> None:
    """Give a folder that was never set up the configuration of a publisher: it ran nothing for
    others before, and must not begin to because 'run' goes on with a job later."""
    known = remembered_network(place.folder)
    wanted = load_network(place.network) if place.network is not None else known
    if wanted is None:
        return  # load_config says what to do
    if known is None and not (place.folder / NODE_FILE).exists():
        set_up(place.folder, "publisher", wanted)
    else:
        join_network(place.folder, wanted)


def _where(place: Place) -> str:
    return f" --data-dir {shlex.quote(str(place.data_dir))}" if place.data_dir else ""


def _finish(
    output: Output,
    found: dict[str, Any],
    results: Path | None,
    findings: Findings,
    detached: str | None = None,
) -> int:
    over = found["state"] != "active"
    document = {
        "job": found,
        "output": str(results) if results else None,
        "warnings": findings.warnings,
        "terms": findings.terms,
    }
    if not over and detached is not None:
        output.result(document, [])
        output.note(
            "This machine may go now. Its results later: "
            f"p2pfleet job results {found['id'][:12]} --output DIR{detached}"
        )
        return ExitCode.OK
    if not over:
        output.result(document, [])
        output.note(f"published {found['units']} units; see: p2pfleet job watch {found['id'][:12]}")
        return ExitCode.OK
    for line in [] if output.as_json else outcome(found):
        output.note(line)
    if results is not None:
        output.note(f"results: {results}")
        output.note(f"check them: p2pfleet verify {shlex.quote(str(results))}")
    output.result(document, [])
    return ExitCode.OK if succeeded(found) else ExitCode.FAILED
