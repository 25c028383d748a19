"""What a node's sandbox can do, as it showed at start: told to the owner and, signed, to peers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Grade = Literal["A", "B", "C", "none"]
"""How strongly a stranger's model is confined; see protocol/volunteers.md.

A: everything; B: everything but user namespaces; C: a system without these locks (only work of
publishers that the owner trusts); none: locks that must hold do not, so nothing is run.
"""

NumericClass = Annotated[bytes, Meta(max_length=32)]
"""SHA-256 over the results of the numeric probe suite; empty where it did not run.

Two nodes of equal class are expected to compute equal bytes.
"""

RuntimeVersion = Annotated[str, Meta(max_length=32)]


Version = Annotated[str, Meta(max_length=32, pattern=r"^[0-9]{1,6}(\.[0-9]{1,6}){0,3}\Z")]
"""A version as one asks for it: one to four numbers with points between them."""


class Capability(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A node's grade, its numeric class and its version of onnxruntime (like ``1.32.0``)."""

    grade: Grade
    numeric_class: NumericClass
    onnxruntime: RuntimeVersion
