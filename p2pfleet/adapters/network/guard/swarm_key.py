"""libp2p's pre-shared key: every byte of a connection, from the first, under one secret.

Each side draws a nonce of 24 bytes, sends it in front, and encrypts what it writes with XSalsa20.
The library has something of the kind, but with another cipher (Salsa20 and a nonce of 8 bytes), so
that it does not talk to other implementations, and with a connection object that lacks half of its
attributes. The key keeps strangers from the handshake; it authenticates nothing: Noise does,
inside.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from typing import Any

from Crypto.Cipher import Salsa20
from libp2p.connection_types import ConnectionType
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.connection.raw_connection import RawConnection

from p2pfleet.core.model.swarm_key import SWARM_KEY_BYTES

NONCE_BYTES = 24
# What a libp2p connection over TCP begins with in both directions, whatever comes then.
GREETING = b"\x13/multistream/1.0.0\n"
_CONSTANTS = struct.unpack("<4I", b"expand 32-byte k")
_WORD = 0xFFFFFFFF
_COLUMNS = ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11))
_ROWS = ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14))


class WrongKey(RawConnError):  # type: ignore[misc]
    """The other side does not have the network's swarm key."""


def hsalsa20(key: bytes, head: bytes) -> bytes:
    """The subkey that XSalsa20 uses with the first 16 bytes of its nonce (Bernstein 2011)."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", head)
    c = _CONSTANTS
    x = [c[0], *k[:4], c[1], *n, c[2], *k[4:], c[3]]
    for _ in range(10):
        for quarter in (*_COLUMNS, *_ROWS):
            _quarter_round(x, *quarter)
    return struct.pack("<8I", *(x[at] for at in (0, 5, 10, 15, 6, 7, 8, 9)))


def _quarter_round(x: list[int], a: int, b: int, c: int, d: int) -> None:
    for to, one, two, by in ((b, a, d, 7), (c, b, a, 9), (d, c, b, 13), (a, d, c, 18)):
        total = (x[one] + x[two]) & _WORD
        x[to] ^= ((total << by) & _WORD) | (total >> (32 - by))


def key_stream(key: bytes, nonce: bytes) -> Callable[[bytes], bytes]:
    """XSalsa20 from its beginning: what it returns goes on where the last call stopped."""
    assert len(key) == SWARM_KEY_BYTES
    assert len(nonce) == NONCE_BYTES
    cipher = Salsa20.new(key=hsalsa20(key, nonce[:16]), nonce=nonce[16:])
    return cipher.encrypt


class ProtectedConnection(RawConnection):  # type: ignore[misc]
    """A raw connection under a swarm key.

    ``wrong`` is called once if the other side's first bytes show that it has another key, or none;
    reading raises :class:`WrongKey` then.
    """

    def __init__(self, inner: Any, key: bytes, wrong: Callable[[], None]) -> None:
        # A connection through a relay stays one, and keeps the way that it takes.
        kind = getattr(inner, "_connection_type", ConnectionType.DIRECT)
        way = getattr(inner, "_actual_addresses", None)
        super().__init__(inner.stream, inner.is_initiator, kind, way)
        self._inner = inner
        self._key = key
        self._wrong = wrong
        self._encrypt: Callable[[bytes], bytes] | None = None
        self._decrypt: Callable[[bytes], bytes] | None = None
        self._nonce = b""
        self._unseen = GREETING

    async def write(self, data: bytes) -> None:
        """Encrypt and write; the nonce goes in front of the first bytes."""
        head = b""
        if self._encrypt is None:
            head = secrets.token_bytes(NONCE_BYTES)
            self._encrypt = key_stream(self._key, head)
        await self._inner.write(head + self._encrypt(data))

    async def read(self, n: int | None = None) -> bytes:
        """Up to ``n`` bytes, decrypted; nothing at the end. Raises :class:`WrongKey`."""
        while self._decrypt is None:
            part = await self._inner.read(NONCE_BYTES - len(self._nonce))
            if not part:
                return b""
            self._nonce += part
            if self._nonce.startswith(GREETING):  # no key at all: it would wait for an answer
                await self._refuse()
            if len(self._nonce) == NONCE_BYTES:
                self._decrypt = key_stream(self._key, self._nonce)
        data = self._decrypt(await self._inner.read(n))
        if self._unseen and data:
            expected = self._unseen[: len(data)]
            if data[: len(expected)] != expected:
                await self._refuse()
            self._unseen = self._unseen[len(expected) :]
        return data

    async def _refuse(self) -> None:
        self._wrong()
        await self._inner.close()
        raise WrongKey("the other side does not have the network's swarm key")

    async def close(self) -> None:
        """Close the connection underneath."""
        await self._inner.close()
