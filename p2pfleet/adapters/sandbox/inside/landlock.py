"""Landlock: the kernel's second lock on files, TCP and signals, as far as this kernel has it.

A ruleset without rules: whatever it handles is forbidden for good. It leaves open what only looks
(``stat``) and what it does not know (UDP); the filter of system calls covers both.
"""

from __future__ import annotations

import ctypes
import os
import struct

from .kernel import call

_ASK_VERSION = 1

# Which rights each version of the interface knows, added up; see linux/landlock.h.
_FILES = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP_FROM, _TCP = 4, 0b11
_SCOPES_FROM, _SCOPES = 6, 0b11  # abstract Unix sockets, signals


def version() -> int:
    """The version of the interface that this kernel offers; 0 if it has none."""
    try:
        return call("landlock_create_ruleset", 0, 0, _ASK_VERSION)
    except OSError:
        return 0


def forbid_everything(version: int) -> None:
    """Forbid what Landlock of ``version`` can forbid. Raises OSError. Needs no_new_privs."""
    rules = ruleset(version)
    buffer = ctypes.create_string_buffer(rules, len(rules))
    fd = call("landlock_create_ruleset", ctypes.addressof(buffer), len(rules), 0)
    try:
        call("landlock_restrict_self", fd, 0)
    finally:
        os.close(fd)


def ruleset(version: int) -> bytes:
    """``struct landlock_ruleset_attr`` that handles all that ``version`` knows."""
    files = max(rights for since, rights in _FILES.items() if since <= version)
    fields = [files]
    if version >= _TCP_FROM:
        fields.append(_TCP)
    if version >= _SCOPES_FROM:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)
