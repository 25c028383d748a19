"""The bans of a node, in a small file beside its store: whoever is in doubt may delete it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from p2pfleet.adapters.store.durable_file import replace_file
from p2pfleet.core.errors import ExitCode, P2pfleetError
from p2pfleet.core.model.ids import parse_peer, peer_text
from p2pfleet.ports import Ban

BAN_FILE = "bans.json"
MAX_FILE_BYTES = 2 * 2**20
MAX_BANS = 1024


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    peer: str
    address: str
    reason: str
    since_ms: int
    lasts_ms: int
    times: int


class BanFile:
    """The port :class:`p2pfleet.ports.BanBook`. Has one user at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / BAN_FILE

    def load_bans(self) -> list[Ban]:
        """What was saved last. Raises :class:`P2pfleetError` when the file is damaged."""
        try:
            with self._path.open("rb") as file:
                rows = msgspec.json.decode(file.read(MAX_FILE_BYTES), type=list[_Row])
            return [
                Ban(
                    parse_peer(row.peer) if row.peer else None,
                    row.address,
                    row.reason,
                    row.since_ms,
                    max(row.lasts_ms, 0),
                    max(row.times, 1),
                )
                for row in rows[:MAX_BANS]
            ]
        except FileNotFoundError:
            return []
        except Exception as error:
            raise P2pfleetError(
                f"{self._path} cannot be read: {str(error)[:200]}.",
                "Remove it: all bans are lifted then, nothing else is lost.",
                ExitCode.DAMAGED,
            ) from error

    def save_bans(self, bans: Sequence[Ban]) -> None:
        """Keep these, durably, and no others."""
        rows = [
            _Row(
                "" if ban.peer is None else peer_text(ban.peer),
                ban.address,
                ban.reason,
                ban.since_ms,
                ban.lasts_ms,
                ban.times,
            )
            for ban in bans[-MAX_BANS:]
        ]
        replace_file(self._path, msgspec.json.format(msgspec.json.encode(rows), indent=1))
