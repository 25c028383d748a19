"""A TOML file of p2pfleet: read whole and checked, every mistake with its line; written durably."""

from __future__ import annotations

import json
import os
import re
import secrets
import stat
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from p2pfleet.core.errors import ExitCode, Malformed, P2pfleetError
from p2pfleet.core.model.ids import PeerId, parse_peer

MAX_FILE_BYTES = 2**20


class ConfigError(P2pfleetError):
    """A file with mistakes in it, all of them."""

    def __init__(self, what: str, mistakes: Sequence[str], advice: str) -> None:
        lines = "".join(f"\n  - {mistake}" for mistake in mistakes)
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        super().__init__(f"{what} has {count}:{lines}\n", advice, ExitCode.USAGE)
        self.mistakes = tuple(mistakes)


class Mistakes:
    """Gathers what is wrong with a file, each with the line on which its key stands."""

    def __init__(self, text: str) -> None:
        self.found: list[str] = []
        self._lines = text.splitlines()

    def add(self, key: str, what: str) -> None:
        """``key``, with the names of its tables before it, is not as it should be."""
        last = re.escape(key.rpartition(".")[2])
        pattern = re.compile(rf"""\s*(?:["']?{last}["']?\s*[=.]|\[\s*{last}\s*[\].])""")
        line = next((n for n, text in enumerate(self._lines, 1) if pattern.match(text)), None)
        self.found.append(f"line {line}, {key}: {what}" if line else f"{key}: {what}")


def read_toml(path: Path) -> tuple[str, dict[str, Any]]:
    """The text of a file and the table in it. Raises :class:`P2pfleetError`."""
    try:
        # Non-blocking: a named pipe in place of the file must not hold the command up.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise P2pfleetError(
                    f"{path} is no ordinary file.", "Name a .toml file.", ExitCode.USAGE
                )
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise P2pfleetError(
            f"there is no file {path}.", "Check its name and folder.", ExitCode.USAGE
        ) from error
    except (OSError, ValueError) as error:
        raise P2pfleetError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Check its permissions.",
            ExitCode.USAGE,
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise P2pfleetError(
            f"{path} has more than {MAX_FILE_BYTES} bytes.",
            "It is hardly a configuration: check the name.",
            ExitCode.USAGE,
        )
    try:
        text = data.decode("utf-8")
        return text, tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error) or "too deeply nested"
        raise ConfigError(str(path), [reason], "It has to be a TOML file in UTF-8.") from error


def checked(
    table: Mapping[str, Any], keys: Mapping[str, Any], mistakes: Mistakes, prefix: str = ""
) -> dict[str, Any]:
    """The entries of ``table`` that are right; everything else becomes a mistake."""
    values = {}
    for key, value in table.items():
        if key not in keys:
            known = ", ".join(keys)
            mistakes.add(prefix + key[:80], f"there is no such key here; there are: {known}")
            continue
        try:
            values[key] = msgspec.convert(value, keys[key], strict=True)
        except msgspec.ValidationError as error:
            mistakes.add(prefix + key, _plain(str(error), "..." if key == "swarm_key" else value))
    return values


_WORDS = {
    " - at `$": " at `value",
    "`array`": "a list",
    "`object`": "a table",
    "`str`": "text",
    "`int`": "a whole number",
    "`float`": "a number with a point",
    "`bool`": "true or false",
    r"matching regex '^[a-z0-9][a-z0-9.-]*\\Z'": "of small letters, digits, dots and dashes",
    r"matching regex '^[0-9]{1,6}(\\.[0-9]{1,6}){0,3}\\Z'": "like 1.32.0",
    r"matching regex '^[0-9a-f]{128}\\Z'": "of 128 hexadecimal digits",
    r"matching regex '^[0-9a-f]{64}\\Z'": "of 64 hexadecimal digits",
}


def _plain(reason: str, value: Any) -> str:
    for word, plain in _WORDS.items():
        reason = reason.replace(word, plain)
    return f"{reason[:1].lower()}{reason[1:]} (it is {value!r:.80})"


def checked_peers(texts: Sequence[str], key: str, mistakes: Mistakes) -> tuple[PeerId, ...]:
    """The peer ids in ``texts``; the others become mistakes."""
    peers = []
    for text in texts:
        try:
            peers.append(parse_peer(text))
        except Malformed as error:
            mistakes.add(key, f"{text!r} is no peer id: {error}")
    return tuple(peers)


def write_file(path: Path, text: str) -> None:
    """Write a small text file (0600), whole and durable, or not at all."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise P2pfleetError(
            f"{path} cannot be written: {error.strerror or error}.",
            "Make room, check its permissions, or choose another folder.",
        ) from error


def quoted(text: str) -> str:
    """``text`` as a TOML string."""
    return json.dumps(text).replace("\x7f", "\\u007f")
