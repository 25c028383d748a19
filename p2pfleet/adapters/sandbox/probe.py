"""What a fork server tells of itself when it is ready: what it found, tried and was denied."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Text = Annotated[str, Meta(max_length=400)]


class Tried(msgspec.Struct, frozen=True, array_like=True):
    """One attempt to escape: which property it would have disproved, and what became of it."""

    name: Text
    prevents: Text
    blocked: bool
    how: Text


class Looked(msgspec.Struct, frozen=True, array_like=True):
    """One thing that the server looked at from within its namespaces."""

    name: Text
    held: bool
    detail: Text


class Findings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the self-test showed, unjudged.

    ``denied``: the step into the namespaces that this machine denied and its reason, or nothing;
    ``landlock``: the version of its interface, 0 if there is none.
    """

    machine: Text
    seccomp: bool
    landlock: Annotated[int, Meta(ge=0, le=1000)]
    mdwe: bool
    denied: Annotated[tuple[Text, ...], Meta(max_length=2)]
    isolation: Annotated[tuple[Looked, ...], Meta(max_length=32)]
    escapes: Annotated[tuple[Tried, ...], Meta(max_length=256)]
    second_lock: Annotated[tuple[Tried, ...], Meta(max_length=32)]
    numeric_class: Annotated[bytes, Meta(max_length=32)]
    onnxruntime: Annotated[str, Meta(max_length=32)]

    @property
    def namespaces(self) -> bool:
        """Whether the server lives in namespaces of its own."""
        return not self.denied
