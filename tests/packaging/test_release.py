"""A release, installed as its users do: plain pip, an empty cache, and no compiler."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import p2pfleet

pytestmark = pytest.mark.packaging

CHECKOUT = Path(__file__).parents[2]

# Published as sources only, and pure Python: pip makes wheels of them without a compiler.
PURE_SOURCES = {"python-baseconv", "varint"}

# libp2p 0.8.1 asks for a fastecdsa that would have to be compiled; see [tool.uv] in pyproject.toml.
KNOWN_CONFLICT = (
    r"libp2p 0\.8\.1 has requirement fastecdsa==2\.3\.2.*, but you have fastecdsa 4\..*"
)


@dataclass(frozen=True)
class Installed:
    """A virtual environment with the release in it, and what pip said while it made it."""

    folder: Path
    environment: dict[str, str]
    said: str

    def run(self, command: str, *arguments: str) -> str:
        """Run a command of the environment, far from the checkout; returns what it printed."""
        return _run(
            [self.folder / "bin" / command, *arguments], self.environment, self.folder, 60
        ).stdout

    def python(self, source: str) -> str:
        return self.run("python", "-I", "-c", source)


def _run(
    command: list[str | Path], environment: dict[str, str], folder: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    root = tmp_path_factory.mktemp("release")
    folder = root / "venv"
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_NO_CACHE_DIR")
    } | {
        "CC": "false",
        "CXX": "false",
        "PIP_CACHE_DIR": str(root / "cache"),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    _run([sys.executable, "-m", "venv", folder], environment, root, 60)
    pip: list[str | Path] = [folder / "bin" / "pip", "install", "--no-deps"]
    requirements = CHECKOUT / "requirements" / "release.txt"
    first = _run([*pip, "--require-hashes", "-r", requirements], environment, root, 240)
    second = _run([*pip, wheel], environment, root, 60)
    return Installed(folder, environment, first.stdout + second.stdout)


def test_nothing_is_compiled(installed: Installed) -> None:
    built = set(
        re.findall(r"(?:Building wheel for|setup\.py install for) ([\w.-]+)", installed.said)
    )

    assert built <= PURE_SOURCES
    for name in built:
        folder = installed.python(
            "import importlib.metadata as m; "
            f"print(*[f for f in m.files({name!r}) if f.suffix in ('.so', '.pyd')])"
        )
        assert folder.strip() == "", f"{name} was compiled"


def test_only_the_known_conflict_is_left(installed: Installed) -> None:
    done = subprocess.run(
        [installed.folder / "bin" / "pip", "check"],
        env=installed.environment,
        cwd=installed.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    (line,) = done.stdout.splitlines()

    assert re.fullmatch(KNOWN_CONFLICT, line)


def test_libp2p_makes_a_host_with_the_other_fastecdsa(installed: Installed) -> None:
    printed = installed.python(
        "import p2pfleet, importlib.metadata as m\n"
        "from libp2p import new_host\n"
        "from libp2p.crypto.ed25519 import create_new_key_pair\n"
        "keys = create_new_key_pair(bytes(32))\n"
        "print(m.version('fastecdsa'), new_host(key_pair=keys).get_id())\n"
    )
    version, peer = printed.split()

    assert version.startswith("4.")
    assert peer.startswith("12D3KooW")


def test_the_data_is_found_inside_the_installed_package(installed: Installed) -> None:
    printed = installed.python(
        "import json, p2pfleet, onnxruntime\n"
        "from p2pfleet.resources import resource_path\n"
        "model = resource_path('testnet', 'jobs', 'digits', 'digits.onnx')\n"
        "session = onnxruntime.InferenceSession(model.read_bytes())\n"
        "print(json.dumps([str(model), str(resource_path('nodes')), p2pfleet.__file__,\n"
        "                  len(session.get_inputs())]))\n"
    )
    model, nodes, package, inputs = json.loads(printed)
    data = Path(package).parent / "_data"

    assert data.is_relative_to(installed.folder)
    assert Path(model) == data / "testnet" / "jobs" / "digits" / "digits.onnx"
    assert Path(nodes) == data / "nodes"
    assert inputs > 0


def test_the_command_answers(installed: Installed) -> None:
    assert p2pfleet.__version__ in installed.run("p2pfleet", "--version")
    assert "Usage: p2pfleet" in installed.run("p2pfleet", "--help")


def test_the_demo_runs_from_the_release(installed: Installed) -> None:
    """The main job on five processes, with nothing but what the wheel carries."""
    done = _run(
        [installed.folder / "bin" / "p2pfleet", "demo", "--json"],
        installed.environment | {"TMPDIR": str(installed.folder)},
        installed.folder,
        240,
    )
    document = json.loads(done.stdout)

    assert document["units"] == document["certified"] == 36
    assert document["images"] == 1797
    assert document["accuracy"] > 0.99
    assert document["liars_outvoted"] > 0
    assert document["equal_to_onnxruntime"]
    assert document["verified"]
    assert document["seconds"] > 0
    assert len(document["nodes"]) == 5
    liar = max(document["nodes"], key=lambda node: node["contradicted"])
    assert liar["liar"]
    assert liar["credit"] == 0
    assert all(node["contradicted"] == 0 for node in document["nodes"] if node is not liar)
    assert not list(installed.folder.glob("p2pfleet-demo-*"))
