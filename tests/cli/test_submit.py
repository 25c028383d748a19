"""``submit``: checked before anything starts; through a node, or with one of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import trio

import p2pfleet
from p2pfleet.cli import submit, waiting
from p2pfleet.config.network_file import save_network
from p2pfleet.config.node_file import NodeConfig, load_config
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.comparison import OutputTolerance
from tests.cli.conftest import Invoke, document
from tests.cli.fake_node import DONE, JOB, KEPT, NETWORK, FakeNode, job, serving

TERMS = {"stop": "quorum", "quorum": 2, "work": 7}


class SubmitRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields that the contract between command line and node names."""

    model: str
    inputs: tuple[str, ...]
    name: str
    quorum: int | None = None
    confidence: float | None = None
    assume_faulty: float | None = None
    replicas_max: int | None = None
    tolerance: bool = False
    tolerances: tuple[OutputTolerance, ...] = ()
    audit: float | None = None
    ringers: int | None = None
    model_class: str = "any"
    split: str | None = None
    memory_mb: int = 512
    cpu_s: float = 60.0
    output_mb: int = 64
    lease_s: float = 30.0
    window_s: float | None = None
    shards: int | None = None
    expires_h: float = 24.0
    strict: bool = False


class Draft(msgspec.Struct, frozen=True):
    """The part of a draft that the command line looks at."""

    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def terms(self) -> dict[str, Any]:
        return TERMS


class EmbeddedNode:
    """What ``open_node`` of the fake application yields."""

    def __init__(self, app: FakeApp) -> None:
        self._app = app

    async def submit(self, request: SubmitRequest, drafted: Callable[[Draft], None]) -> bytes:
        await trio.lowlevel.checkpoint()
        if self._app.refusal is not None:
            raise self._app.refusal
        drafted(self._app.draft)
        self._app.requests.append(request)
        return bytes.fromhex(JOB)

    def job(self, _: bytes) -> dict[str, Any]:
        states = self._app.states
        return states.pop(0) if len(states) > 1 else states[0]

    async def wait_changed(self) -> None:
        self._app.waiting.set()
        await trio.sleep(0.01)

    async def results(self, _: bytes, folder: Path) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        (folder / "report.json").write_text(json.dumps({"job": {"id": JOB}}))
        return {}


class FakeApp(ModuleType):
    """Stands in for ``p2pfleet.app``, so that no test here opens a network."""

    SubmitRequest = SubmitRequest

    def __init__(self) -> None:
        super().__init__("p2pfleet.app")
        self.states = [job(), DONE]
        self.refusal: P2pfleetError | None = None
        self.draft = Draft()
        self.requests: list[SubmitRequest] = []
        self.configs: list[NodeConfig] = []
        self.closed = 0
        self.hangs = False
        self.opening_hangs = False
        self.waiting = threading.Event()

    @asynccontextmanager
    async def open_node(
        self, config: NodeConfig, *, liar: bool = False
    ) -> AsyncIterator[EmbeddedNode]:
        assert not liar
        self.configs.append(config)
        self.waiting.clear()
        async with trio.open_nursery():
            if self.opening_hangs:
                self.waiting.set()
                with trio.CancelScope(shield=True):
                    await trio.sleep_forever()
            try:
                yield EmbeddedNode(self)
            finally:
                if self.hangs:
                    with trio.CancelScope(shield=True):
                        await trio.sleep_forever()
                self.closed += 1


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> FakeApp:
    fake = FakeApp()
    monkeypatch.setitem(sys.modules, "p2pfleet.app", fake)
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.05)
    return fake


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A model and two inputs; only nodes look into them."""
    (tmp_path / "model.onnx").write_bytes(b"model")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "b.npz").write_bytes(b"b")
    (tmp_path / "in" / "a.npy").write_bytes(b"a")
    (tmp_path / "in" / "notes.txt").write_bytes(b"not an input")
    save_network(tmp_path / "fake.toml", NETWORK)
    return tmp_path


# ---- before anything starts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("missing.onnx", "in"), "missing.onnx"),
        (("in", "in"), "no ordinary file"),
        (("empty.onnx", "in"), "is empty"),
        (("pipe", "in"), "no ordinary file"),
        (("model.onnx", "missing.npz"), "missing.npz"),
        (("model.onnx", "nothing"), "no .npz or .npy"),
        (("model.onnx", "in", "empty.onnx"), "is empty"),
        (("model.onnx",), "INPUTS"),
        (("model.onnx", "in", "--split", "0:0"), "no split"),
        (("model.onnx", "in", "--split", "rows"), "no split"),
        (("model.onnx", "in", "--quorum", "0"), "quorum"),
        (("model.onnx", "in", "--quorum", "33"), "quorum"),
        (("model.onnx", "in", "--quorum", "5", "--replicas-max", "4"), "quorum of 5"),
        (("model.onnx", "in", "--quorum", "2", "--confidence", "0.9"), "two ways to decide"),
        (("model.onnx", "in", "--confidence", "1"), "confidence"),
        (("model.onnx", "in", "--confidence", "nan"), "confidence"),
        (("model.onnx", "in", "--confidence", "0.4"), "confidence"),
        (("model.onnx", "in", "--assume-faulty", "0.1"), "without --confidence"),
        (("model.onnx", "in", "--confidence", ".9", "--assume-faulty", "0"), "assume-faulty"),
        (("model.onnx", "in", "--confidence", ".9", "--assume-faulty", "0.6"), "assume-faulty"),
        (("model.onnx", "in", "--replicas-max", "1"), "quorum of 2"),
        (("model.onnx", "in", "--exact", "--tolerance"), "two ways to compare"),
        (("model.onnx", "in", "--tolerance=y"), "no tolerance"),
        (("model.onnx", "in", "--tolerance=y=1e-6"), "no tolerance"),
        (("model.onnx", "in", "--tolerance==1e-6,0"), "no tolerance"),
        (("model.onnx", "in", "--tolerance", "y=1e-2,0"), "cannot be the tolerance of 'y'"),
        (("model.onnx", "in", "--tolerance", "y=0,0.1"), "cannot be the tolerance of 'y'"),
        (("model.onnx", "in", "--tolerance", "y=1e-13,0"), "cannot be the tolerance of 'y'"),
        (("model.onnx", "in", "--tolerance", "y=-1,0"), "y=-1,0"),
        (("model.onnx", "in", "--tolerance", "y=1e999,0"), "cannot be the tolerance of 'y'"),
        (("model.onnx", "in", "--audit", "1.5"), "audit"),
        (("model.onnx", "in", "--audit", "nan"), "audit"),
        (("model.onnx", "in", "--ringers", "129"), "ringers"),
        (("model.onnx", "in", "--ringers", "-1"), "ringers"),
        (("model.onnx", "in", "--model-class", ""), "class of models"),
        (("model.onnx", "in", "--model-class", "x" * 65), "class of models"),
        (("model.onnx", "in", "--expires-h", "721"), "expires"),
        (("model.onnx", "in", "--cpu-s", "nan"), "cpu"),
        (("model.onnx", "in", "--lease-s", "inf"), "lease"),
        (("model.onnx", "in", "--window", "0.05"), "window"),
        (("model.onnx", "in", "--window", "3601"), "window"),
        (("model.onnx", "in", "--shards", "0"), "shards"),
        (("model.onnx", "in", "--shards", "4097"), "shards"),
        (("model.onnx", "in", "--window", "nan"), "--window"),
        (("model.onnx", "in", "--name", "a\x1bb"), "no name"),
        (("model.onnx", "in", "--name", ""), "no name"),
        (("model.onnx", "in", "--output", "in"), "not empty"),
        (("model.onnx", "in", "--output", "model.onnx"), "model.onnx"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_published_is_refused_before_anything_starts(
    invoke: Invoke, files: Path, app: FakeApp, node: FakeNode, arguments: tuple[str, ...], word: str
) -> None:
    (files / "empty.onnx").touch()
    (files / "nothing").mkdir()
    os.mkfifo(files / "pipe")
    result = invoke("submit", *arguments, "--json")
    assert result.exit_code == ExitCode.USAGE, result.output
    assert word in document(result)["error"]["message"]
    assert node.requests == []
    assert app.configs == []


# ---- through a running node ------------------------------------------------------------------


def test_a_running_node_publishes_the_job(invoke: Invoke, files: Path, node: FakeNode) -> None:
    result = invoke(
        "submit", "model.onnx", "in", "--split", "0:50", "--quorum", 3, "--exact", "--cpu-s", 2.5
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{JOB}\n", "the id, for scripts, and nothing else"
    (sent,) = node.of("submit")
    assert msgspec.convert(sent, SubmitRequest) == SubmitRequest(
        model=str(files / "model.onnx"),
        inputs=(str(files / "in" / "a.npy"), str(files / "in" / "b.npz")),
        name="model",
        quorum=3,
        split="0:50",
        cpu_s=2.5,
    )
    assert "job watch" in result.stderr


def test_waiting_for_a_running_node_writes_the_results(
    invoke: Invoke, files: Path, node: FakeNode
) -> None:
    states = [job(), DONE]
    node.answers["submit"] = lambda _: {"job": JOB, "terms": TERMS}
    node.answers["job"] = lambda _: states.pop(0) if len(states) > 1 else states[0]
    result = invoke("submit", "model.onnx", "in", "--output", "out", "--json")
    assert result.exit_code == 0, result.output
    assert document(result) == {
        "job": DONE, "output": str(files / "out"), "warnings": [], "terms": TERMS,
    }  # fmt: skip
    assert node.of("results") == [{"job": JOB, "output": str(files / "out")}]
    assert result.stderr.startswith(f"{JOB}\n"), "the id comes before the end"


def test_warnings_reach_the_person_and_the_document(
    invoke: Invoke, files: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.answers["submit"] = lambda _: {"job": JOB, "warnings": ["it wavers"], "notes": ["slow"]}
    result = invoke("submit", "model.onnx", "in")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{JOB}\n"
    assert "warning: it wavers\n" in result.stderr
    assert "note: slow\n" in result.stderr

    result = invoke("submit", "model.onnx", "in", "--json")
    assert document(result)["warnings"] == ["it wavers"]

    # Also where the command fails later on.
    monkeypatch.setattr(submit, "PATIENCE_S", 0.1)
    node.answers["job"] = lambda _: job(volunteers=0)
    result = invoke("submit", "model.onnx", "in", "--wait", "--json")
    assert result.exit_code == ExitCode.NO_PEERS
    assert document(result)["warnings"] == ["it wavers"]


def asked(node: FakeNode) -> SubmitRequest:
    """What the node was asked for last."""
    return msgspec.convert(node.of("submit")[-1], SubmitRequest)


def test_how_sure_to_be_is_asked_of_the_node(invoke: Invoke, files: Path, node: FakeNode) -> None:
    result = invoke(
        "submit", "model.onnx", "in", "--confidence", "0.999", "--assume-faulty", "0.2",
        "--replicas-max", 12, "--audit", "0.05", "--ringers", 7, "--model-class", "faces",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    sent = asked(node)
    assert (sent.quorum, sent.confidence, sent.assume_faulty) == (None, 0.999, 0.2)
    assert (sent.replicas_max, sent.audit, sent.ringers) == (12, 0.05, 7)
    assert (sent.model_class, sent.tolerance, sent.tolerances) == ("faces", False, ())


def test_how_long_volunteers_wait_for_each_other_is_asked_of_the_node(
    invoke: Invoke, files: Path, node: FakeNode
) -> None:
    assert invoke("submit", "model.onnx", "in").exit_code == 0
    assert asked(node).window_s is None
    assert invoke("submit", "model.onnx", "in", "--window", "0.5").exit_code == 0
    assert asked(node).window_s == 0.5
    assert asked(node).shards is None
    assert invoke("submit", "model.onnx", "in", "--shards", "12").exit_code == 0
    assert asked(node).shards == 12
    shown = " ".join(invoke("submit", "--help").output.split())
    assert "--window SECONDS" in shown
    assert "default: 5" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ("--tolerance", "model.onnx", "in"),
        ("model.onnx", "--tolerance", "in"),
        ("model.onnx", "in", "--tolerance"),
        ("model.onnx", "in", "--tolerance", "--strict"),
    ],
)
def test_a_tolerance_may_stand_alone_wherever_it_stands(
    invoke: Invoke, files: Path, node: FakeNode, arguments: tuple[str, ...]
) -> None:
    assert invoke("submit", *arguments).exit_code == 0
    sent = asked(node)
    assert (sent.tolerance, sent.tolerances) == (True, ())
    assert sent.model == str(files / "model.onnx")
    assert len(sent.inputs) == 2


def test_outputs_get_tolerances_of_their_own(invoke: Invoke, files: Path, node: FakeNode) -> None:
    result = invoke(
        "submit", "--tolerance", "y=1e-6,1e-4", "model.onnx", "in", "--tolerance", "a=b=0,0.01",
        "--tolerance=z=0.000000000001,1E-9",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert asked(node).tolerances == (
        OutputTolerance("y", 1_000_000, 100_000),
        OutputTolerance("a=b", 0, 10_000_000),
        OutputTolerance("z", 1, 1),
    )


def test_the_terms_reach_the_document(
    invoke: Invoke, files: Path, node: FakeNode, app: FakeApp
) -> None:
    node.answers["submit"] = lambda _: {"job": JOB, "terms": TERMS}
    assert document(invoke("submit", "model.onnx", "in", "--json"))["terms"] == TERMS


def test_the_terms_of_the_own_node_reach_the_document(
    invoke: Invoke, files: Path, app: FakeApp
) -> None:
    result = invoke(
        "submit", "model.onnx", "in", "--network", "fake.toml", "--confidence", "0.99",
        "--tolerance", "y=0,1e-3", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert document(result)["terms"] == TERMS
    assert app.requests[0].confidence == 0.99
    assert app.requests[0].tolerances == (OutputTolerance("y", 0, 1_000_000),)


def test_strict_is_asked_of_the_node(invoke: Invoke, files: Path, node: FakeNode) -> None:
    assert invoke("submit", "model.onnx", "in").exit_code == 0
    assert invoke("submit", "model.onnx", "in", "--strict").exit_code == 0
    assert [sent["strict"] for sent in node.of("submit")] == [False, True]


def test_a_job_with_failed_units_is_a_failure(invoke: Invoke, files: Path, node: FakeNode) -> None:
    node.answers["job"] = lambda _: job(
        state="completed", settled=9, failed=1, open=0, failures=[{"unit": 3, "reason": "memory"}]
    )
    result = invoke("submit", "model.onnx", "in", "--wait")
    assert result.exit_code == ExitCode.FAILED
    assert "unit 3 failed: memory" in result.stderr


def test_no_volunteer_within_the_patience_is_an_error_that_keeps_the_job(
    invoke: Invoke, files: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "PATIENCE_S", 0.2)
    node.answers["job"] = lambda _: job(volunteers=0)
    result = invoke("submit", "model.onnx", "in", "--wait", "--json")
    assert result.exit_code == ExitCode.NO_PEERS
    found = document(result)
    assert found["job"]["id"] == JOB
    assert "no volunteer answered" in found["error"]["message"]
    for word in ("bootstrap", "network", "firewall", "keeps the job", "--wait-for-peers"):
        assert word in found["error"]["advice"]


def test_detached_it_returns_when_everything_is_kept_and_recorded(
    invoke: Invoke, files: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.01)
    states = [job(), job(custody={**KEPT, "recorded": False}), job(custody=KEPT)]
    node.answers["job"] = lambda _: states.pop(0) if len(states) > 1 else states[0]
    result = invoke("submit", "model.onnx", "in", "--detach")
    assert result.exit_code == ExitCode.OK
    assert len(node.of("job")) == 3
    assert result.stdout.splitlines() == [JOB]
    for text in ("1 of 4 blobs kept by 3 volunteers", "4 of 4", "This machine may go now"):
        assert text in result.stderr


@pytest.mark.parametrize("volunteers", [2, 3])
def test_what_is_not_kept_in_time_is_said_with_what_to_do(
    invoke: Invoke,
    files: Path,
    node: FakeNode,
    monkeypatch: pytest.MonkeyPatch,
    volunteers: int,
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(submit, "KEEP_PATIENCE_S", 0.1)
    node.answers["job"] = lambda _: job(volunteers=volunteers)
    result = invoke("submit", "model.onnx", "in", "--detach", "--json")
    assert result.exit_code == ExitCode.UNKEPT
    found = document(result)
    assert found["job"]["id"] == JOB
    missing = "there are 2 volunteers" if volunteers == 2 else "3 of 4 blobs of the job"
    assert missing in found["error"]["message"]
    assert "keep this node running" in found["error"]["advice"]
    assert "--wait" in found["error"]["advice"]


def test_a_publisher_of_its_own_ends_when_its_job_is_kept(
    invoke: Invoke, files: Path, app: FakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "LOOK_EVERY_S", 0.01)
    app.states = [job(), job(custody=KEPT)]
    result = invoke("submit", "model.onnx", "in", "--network", "fake.toml", "--detach")
    assert result.exit_code == ExitCode.OK
    assert app.closed == 1
    assert f"job results {JOB[:12]} --output DIR" in result.stderr


def test_to_leave_and_to_wait_cannot_both_be_wanted(invoke: Invoke, files: Path) -> None:
    for other in (("--wait",), ("--output", "OUT")):
        result = invoke("submit", "model.onnx", "in", "--detach", *other)
        assert result.exit_code == ExitCode.USAGE
        assert "--detach returns before" in result.stderr


def test_a_node_of_another_network_is_not_used(invoke: Invoke, files: Path, home: Path) -> None:
    (files / "other.toml").write_text('name = "other"\n')
    with serving(home) as node:
        result = invoke(
            "submit", "model.onnx", "in", "--network", "other.toml", "--data-dir", home, "--json"
        )
    assert result.exit_code == ExitCode.USAGE
    assert "testnet-fake" in document(result)["error"]["message"]
    assert node.of("submit") == []


# ---- with a node of its own ------------------------------------------------------------------


def test_warnings_of_the_own_node_reach_the_person_as_well(
    invoke: Invoke, files: Path, app: FakeApp
) -> None:
    app.draft = Draft(warnings=("it wavers",), notes=("slow",))
    result = invoke("submit", "model.onnx", "in", "--network", "fake.toml", "--strict", "--json")
    assert result.exit_code == 0, result.output
    assert document(result)["warnings"] == ["it wavers"]
    assert "warning: it wavers\nnote: slow\n" in result.stderr
    assert app.requests[0].strict


def test_without_a_node_the_command_publishes_itself_and_runs_nothing_for_others(
    invoke: Invoke, files: Path, home: Path, app: FakeApp
) -> None:
    result = invoke("submit", "model.onnx", "in", "--network", "fake.toml", "--output", "out")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{JOB}\n"
    (config,) = app.configs
    folder = home / "networks" / f"testnet-fake-{NETWORK.id.hex()[:8]}"
    assert (config.data_dir, config.roles, config.slots) == (folder, ("publisher",), 0)
    assert app.requests[0].name == "model"
    assert app.closed == 1
    assert (files / "out" / "report.json").exists()
    later = load_config(None, data_dir=folder)
    assert later.roles == ("publisher",), "'run' goes on with the job and volunteers for nothing"


def test_an_error_of_the_embedded_node_is_told_plainly(
    invoke: Invoke, files: Path, app: FakeApp
) -> None:
    app.refusal = P2pfleetError("the model is no model.", "Export it again.", ExitCode.FAILED)
    result = invoke("submit", "model.onnx", "in", "--network", "fake.toml", "--json")
    assert result.exit_code == ExitCode.FAILED
    assert document(result)["error"]["message"] == "the model is no model."
    assert app.closed == 1


def test_alone_on_the_network_the_embedded_publisher_gives_up_and_keeps_the_job(
    invoke: Invoke, files: Path, app: FakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "PATIENCE_S", 0.2)
    app.states = [job(volunteers=0)]
    result = invoke("submit", "model.onnx", "in", "--network", "fake.toml", "--json")
    assert result.exit_code == ExitCode.NO_PEERS
    found = document(result)
    assert found["job"]["id"] == JOB
    assert f"p2pfleet run --data-dir {app.configs[0].data_dir}" in found["error"]["advice"]
    assert app.closed == 1


def test_who_waits_for_peers_waits_longer_than_the_patience(
    invoke: Invoke, files: Path, app: FakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "PATIENCE_S", 0.0)
    app.states = [*[job(volunteers=0)] * 5, DONE]
    result = invoke(
        "submit", "model.onnx", "in", "--network", "fake.toml", "--wait-for-peers", "--json"
    )
    assert result.exit_code == 0
    assert document(result)["job"]["state"] == "completed"


def signal_once(app: FakeApp, number: signal.Signals) -> None:
    """Send ourselves a signal as soon as the command waits for its job."""

    def send() -> None:
        if app.waiting.wait(20):
            os.kill(os.getpid(), number)

    app.waiting.clear()
    threading.Thread(target=send, daemon=True).start()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_submit_says_how_the_job_goes_on(
    invoke: Invoke, files: Path, app: FakeApp, number: signal.Signals
) -> None:
    app.states = [job()]
    before = signal.getsignal(number)
    signal_once(app, number)
    result = invoke("submit", "model.onnx", "in", "--network", "fake.toml", "--json")
    assert result.exit_code == ExitCode.INTERRUPTED
    found = document(result)
    assert found["job"] == {"id": JOB}
    assert f"p2pfleet run --data-dir {app.configs[0].data_dir}" in found["error"]["advice"]
    assert app.closed == 1
    assert signal.getsignal(number) == before


HANGING = """
import sys
from p2pfleet.cli import embedded, waiting
from p2pfleet.cli.main import main
from tests.cli.fake_node import DONE, job
from tests.cli.test_submit import FakeApp, signal_once
phase = sys.argv.pop(1)
app = sys.modules["p2pfleet.app"] = FakeApp()
embedded.CLOSE_PATIENCE_S = 0.3
waiting.LOOK_EVERY_S = 0.05
app.opening_hangs = phase == "opening"
app.hangs = phase != "opening"
if phase != "done":
    app.states = [job()]
    import signal
    signal_once(app, signal.SIGTERM)
main()
"""


@pytest.mark.parametrize(
    ("phase", "code"),
    [
        ("opening", ExitCode.INTERRUPTED),
        ("closing", ExitCode.INTERRUPTED),
        ("done", ExitCode.OK),
    ],
)
def test_a_node_that_does_not_close_keeps_neither_the_command_nor_its_answer(
    files: Path, home: Path, monkeypatch: pytest.MonkeyPatch, phase: str, code: ExitCode
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(p2pfleet.__file__).parents[1]))
    done = subprocess.run(
        [
            sys.executable, "-c", HANGING, phase, "submit", "model.onnx", "in", "--network",
            "fake.toml", "--json",
        ],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "ignored" not in done.stderr
    assert ("error" in json.loads(done.stdout)) == (code is not ExitCode.OK)


# ---- run, with the same fake -----------------------------------------------------------------


def test_run_ends_with_code_0_on_sigterm(
    invoke: Invoke, files: Path, app: FakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(EmbeddedNode, "peer", bytes(32), raising=False)
    monkeypatch.setattr(EmbeddedNode, "addresses", ("/ip4/127.0.0.1/tcp/7",), raising=False)
    monkeypatch.setattr("p2pfleet.cli.run._announce", announce_and(app))
    signal_once(app, signal.SIGTERM)
    result = invoke(
        "run", "--network", "fake.toml", "--listen", "/ip4/127.0.0.1/tcp/0", "--slots", 2, "--json"
    )
    assert result.exit_code == 0, result.output
    assert "listening on /ip4/127.0.0.1/tcp/7" in result.stderr
    assert "stopped" in result.stderr
    assert json.loads(result.stdout)["addresses"] == ["/ip4/127.0.0.1/tcp/7"]
    assert app.configs[0].slots == 2
    assert app.closed == 1


def announce_and(app: FakeApp) -> Any:
    from p2pfleet.cli import run

    announce = run._announce

    def then_wait(*args: Any) -> None:
        announce(*args)
        app.waiting.set()

    return then_wait
