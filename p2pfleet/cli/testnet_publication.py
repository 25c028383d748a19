"""Publishing from a process of its own, so that things can happen to the publisher, too."""

from __future__ import annotations

import random
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfleet.adapters.control.client import ControlClient
from p2pfleet.cli.local_network import LocalNetwork
from p2pfleet.cli.local_publication import ACQUAINTANCE_S, Published
from p2pfleet.cli.progress import JobProgress
from p2pfleet.cli.testnet_stage import Stage
from p2pfleet.cli.waiting import is_over
from p2pfleet.core.errors import P2pfleetError
from p2pfleet.core.model.ids import parse_job

if TYPE_CHECKING:
    from p2pfleet.cli.output import Output
    from p2pfleet.submission import SubmitRequest

_LOOK_EVERY_S = 0.2
_COLLECT_S = 60.0
_DOC_STRING = 6  # the field of ModelProto in onnx.proto


def publish_there(
    output: Output,
    network: LocalNetwork,
    publisher: int,
    stage: Stage,
    request: SubmitRequest,
    results: Path,
    within_s: float,
    published: Callable[[], None],
) -> Published:
    """Publish from node number ``publisher``, let ``stage`` go on, and collect what there is.

    ``published`` is called just before the job is handed over. Waits until the job is over and
    everything has happened, or ``within_s`` have passed. Raises :class:`P2pfleetError` if the
    publisher does not answer in the end.
    """
    import msgspec

    client = ControlClient(network.folder(publisher))
    wanted = {node.peer for node in network.nodes if not node.publisher}
    deadline = time.monotonic() + ACQUAINTANCE_S
    while not _known(client) >= wanted and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    published()
    answer = client.call("submit", **msgspec.to_builtins(request))
    for text in answer["warnings"]:
        output.note(f"warning: {text}")
    job = str(answer["job"])
    output.note(f"published job {job[:12]}")
    stage.begin(parse_job(job))
    begin = time.monotonic()
    late = False
    with JobProgress(output) as progress:
        while True:
            now_s = time.monotonic() - begin
            stage.advance(now_s)
            view: dict[str, Any] | None = network.ask(publisher, "job", job=job)
            if view is not None:
                progress.update(view)
                if is_over(view) and not stage.waits:
                    break
            late = now_s >= within_s
            if late:
                break
            time.sleep(_LOOK_EVERY_S)
    return _collect(client, job, results, late)


def _known(client: ControlClient) -> set[str]:
    """Whom the publisher is connected to, if they have said who they are."""
    return {peer["peer"] for peer in client.call("peers") if peer["software"]}


def _collect(client: ControlClient, job: str, results: Path, late: bool) -> Published:
    """The results, from a publisher that may just have been started again."""
    deadline = time.monotonic() + _COLLECT_S
    while True:
        try:
            view: dict[str, Any] = client.call("job", job=job)
            client.call("results", job=job, output=str(results))
            records: list[dict[str, Any]] = client.call("reputation")
        except P2pfleetError as error:
            if time.monotonic() >= deadline:
                raise P2pfleetError(
                    f"the publisher gives no results: {error.message}",
                    "Let the scenario restart it before the end.",
                ) from error
            time.sleep(_LOOK_EVERY_S)
            continue
        return Published(view, records, late)


def enlarge_model(model: Path, target: Path, size: int, seed: int) -> None:
    """Write ``model`` to ``target`` with a description so long that the file has ``size`` bytes.

    Protocol buffers that are put one after the other are one message, in which the last value of a
    field holds; so a description can be added without understanding the rest.
    """
    data = model.read_bytes()
    letters = (string.ascii_letters + string.digits + "+/").encode()
    table = bytes(letters[number % 64] for number in range(256))
    head = bytes([_DOC_STRING << 3 | 2])
    room = max(0, size - len(data) - len(head))
    length = room - len(_varint(room))
    if length > 0:
        text = random.Random(seed).randbytes(length).translate(table)  # noqa: S311
        data += head + _varint(length) + text
    target.write_bytes(data)


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
