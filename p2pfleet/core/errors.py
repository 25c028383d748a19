"""What can go wrong, by the party at fault.

* our own mistake: an ``assert``;
* something a person can mend: :class:`P2pfleetError` (what happened, and what to do next);
* a peer's bytes: a :class:`Verdict`, never an exception that leaves the place that found it;
  inside a decoder it is :class:`Malformed`, which the caller turns into ``Reject``.
"""

from __future__ import annotations

import enum

import msgspec


class ExitCode(enum.IntEnum):
    """Documented exit codes of the command line (README, section "Exit codes")."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNTRUSTED = 3
    NO_NODE = 4
    NO_PEERS = 5
    DAMAGED = 6
    UNKEPT = 7
    INTERRUPTED = 130


class P2pfleetError(Exception):
    """An error for a person: one sentence on what happened, one on what to do next."""

    def __init__(self, message: str, advice: str = "", code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.code = code

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".strip()


class DiskTrouble(P2pfleetError):
    """The disk takes no writes for now: full, read-only, or failing. Another attempt may succeed.

    ``reason`` is what a node that waits for it says, in one clause.
    """

    def __init__(
        self, message: str, advice: str, remedy: str, code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(message, advice, code)
        self.reason = f"{message.rstrip('.')}; {remedy}, it resumes by itself"


class Malformed(Exception):
    """Bytes that are not a canonical message of the expected type; the reason names the field."""


class BadSignature(Malformed):
    """A signature that does not match what it is said to sign."""


class Reject(msgspec.Struct, frozen=True, tag="reject"):
    """The sender's fault; counts against it."""

    reason: str


class Forged(Reject, frozen=True, tag="forged"):
    """A Reject for a signature that does not match: counts more, for finding out cost more."""


class Proven(Reject, frozen=True, tag="proven"):
    """A Reject that needs no second one: a fault that two frames of the peer's own prove."""


class Ignore(msgspec.Struct, frozen=True, tag="ignore"):
    """Bad luck (late, duplicate, unknown job, a clock that differs); nobody's fault."""

    reason: str


class Accept(msgspec.Struct, frozen=True, tag="accept"):
    """Well-formed, signed, and useful."""


Verdict = Accept | Ignore | Reject
ACCEPT = Accept()
