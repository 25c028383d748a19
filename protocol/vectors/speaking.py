"""Vectors of ``transport.md``: greetings of other versions, and what a newer minor one adds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgpack
from canonical import described, hashed
from samples import ID, JOB, SEALED_RECORD

from p2pfleet.core.errors import Malformed
from p2pfleet.core.wire.codec import encode
from p2pfleet.core.wire.messages import Goodbye, Hello, JobsSummary, Wanted
from p2pfleet.core.wire.versions import read_newer, told_versions

Case = dict[str, Any]


def _parts(message: Any) -> list[Any]:
    found: list[Any] = msgpack.unpackb(encode(message))
    return found


def speaking() -> Iterable[Case]:
    hello = _parts(Hello(ID, 1, 1, 0, SEALED_RECORD))
    head = hello[:2]
    for about, message in (
        ("our own", hello),
        ("a later minor version, with more fields", [*hello[:4], 7, hello[5], "more"]),
        ("versions 1 to 3", [*head, 1, 3, 2, hello[5]]),
        ("version 2 alone, with another kind of record", [*head, 2, 2, 0, {"a": 1}, 5]),
        ("version 0 alone", [*head, 0, 0, 0]),
        ("no versions at all", [*head, 1]),
        ("the oldest above the newest", [*head, 3, 2, 0, hello[5]]),
        ("a version that is no number", [*head, "1", 1, 0, hello[5]]),
        ("a version that is too large", [*head, 1, 65_536, 0, hello[5]]),
        ("a goodbye", _parts(Goodbye(2, 3, 7, "p2pfleet/2.0.0"))),
        ("a goodbye of a later version", ["goodbye", 9, 9, 0, "x", ["why"]]),
        ("another message", _parts(Wanted(JOB, (1,)))),
    ):
        data = msgpack.packb(message)
        told = told_versions(data)
        yield {
            "about": f"greeting: {about}",
            "judged": "greeting",
            **hashed(data),
            "versions": None if told is None else [told.oldest, told.newest, told.minor],
            "common": told is not None and told.common,
        }
    wanted, jobs = _parts(Wanted(JOB, (1, 2))), _parts(JobsSummary((JOB,), ()))
    for about, rule, data in (
        ("as it is", "", msgpack.packb(wanted)),
        ("one field more", "", msgpack.packb([*wanted, {"because": [1.5, None]}])),
        ("twenty fields more", "", msgpack.packb([*jobs, *range(20)])),
        ("an unknown kind", "unknown", msgpack.packb(["weather", 1, 2])),
        ("a field less", "fields", msgpack.packb(wanted[:-1])),
        ("a known field out of bounds", "bound", msgpack.packb([wanted[0], wanted[1], [], 1])),
        ("a known field of another type", "type", msgpack.packb([wanted[0], 5, [1], 1])),
        ("a known field that is not canonical", "canonical",
         b"\x94" + msgpack.packb("wanted") + msgpack.packb(wanted[1]) + b"\x91\xcc\x01" + b"\x01"),
        ("cut short", "syntax", msgpack.packb(wanted)[:-1]),
        ("more after the end", "syntax", msgpack.packb(wanted) + b"\x00"),
        ("no array", "type", msgpack.packb("wanted")),
        ("no tag", "type", msgpack.packb([5])),
    ):  # fmt: skip
        try:
            message = read_newer(data)
            assert (message is None) == (rule == "unknown"), about
        except Malformed:
            assert rule not in ("", "unknown"), about
            message = None
        case = {"about": f"newer: {about}", "judged": "newer", **hashed(data), "rule": rule}
        yield case if message is None else {**case, "value": described(message)}
