"""The key that every connection of a closed network is encrypted with, and its file format.

The format is libp2p's own for private networks, so that a node of another implementation reads the
same file.
"""

from __future__ import annotations

from p2pfleet.core.errors import Malformed

SWARM_KEY_BYTES = 32
MAX_SWARM_KEY_FILE_BYTES = 4096
_HEAD = "/key/swarm/psk/1.0.0/"
_CODEC = "/base16/"


def swarm_key_text(key: bytes) -> str:
    """The contents of a key file."""
    assert len(key) == SWARM_KEY_BYTES
    return f"{_HEAD}\n{_CODEC}\n{key.hex()}\n"


def parse_swarm_key(text: str) -> bytes:
    """The 32 bytes that a key file holds. Raises :class:`Malformed`."""
    lines = [line.strip() for line in text[:MAX_SWARM_KEY_FILE_BYTES].strip().splitlines()]
    if len(lines) != 3 or lines[0] != _HEAD:
        raise Malformed(f"a swarm key has three lines, the first of them {_HEAD}")
    if lines[1] != _CODEC:
        raise Malformed(f"the swarm key is not written in {_CODEC}")
    try:
        key = bytes.fromhex(lines[2])
    except ValueError as error:
        raise Malformed("the swarm key's last line is not hexadecimal") from error
    if len(key) != SWARM_KEY_BYTES:
        raise Malformed("the swarm key has to be 64 hexadecimal digits")
    return key
