"""Where the data that travels with p2pfleet lies: profiles in ``nodes/``, scenarios and jobs in
``testnet/``.

The wheel carries both folders under ``p2pfleet/_data/``; an editable install finds them at the top
of its checkout. Neither is an importable package, because other projects install packages of these
names.
"""

from __future__ import annotations

from pathlib import Path

from p2pfleet.core.errors import P2pfleetError

FOLDERS = ("nodes", "testnet")

_PACKAGE = Path(__file__).resolve().parent


def resource_path(*parts: str) -> Path:
    """The path of a file or folder of the data, for example ``("testnet", "jobs", "digits")``.

    Each part is one name: parts may come from the command line (a scenario, a profile), and must
    not lead anywhere else. Raises :class:`P2pfleetError` if there is no such data.
    """
    wanted = "/".join(parts)
    if not parts or parts[0] not in FOLDERS or not all(_is_name(part) for part in parts):
        raise P2pfleetError(
            f"{wanted!r} does not name data of p2pfleet.",
            "Name a file below nodes/ or testnet/, without '..'; for a file of your own, give the "
            "path to it.",
        )
    root = _root()
    path = root.joinpath(*parts)
    if path.exists():
        return path
    raise P2pfleetError(f"There is no {wanted} in {root}.", _advice(root.joinpath(*parts[:-1])))


def _root() -> Path:
    installed = _PACKAGE / "_data"
    if installed.is_dir():
        return installed
    checkout = _PACKAGE.parent
    if all((checkout / folder).is_dir() for folder in FOLDERS):
        return checkout
    raise P2pfleetError(
        f"The data of p2pfleet (nodes, testnet) is missing from {_PACKAGE}.",
        "Install p2pfleet again from its wheel, or run it from a complete checkout.",
    )


def _is_name(part: str) -> bool:
    return part not in ("", ".", "..") and not any(mark in part for mark in "/\\:\0")


def _advice(folder: Path) -> str:
    if not folder.is_dir():
        return "Install p2pfleet again, if it ought to be there."
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith((".", "_")))
    return f"There is: {', '.join(there)}." if there else f"{folder.name}/ is empty."
