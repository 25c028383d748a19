"""Models that nobody would write: sane ones, damaged; a seed and an index name each for good."""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError

from tests.conformance.cases import all_cases
from tests.fuzz.drafts import Draft, Random, nodes_of
from tests.fuzz.mutations import MUTATIONS

MAX_MODEL_BYTES = 4 * 2**20


class Mutant(NamedTuple):
    """A damaged model: its bytes, inputs that may or may not fit it, and where it comes from."""

    model: bytes
    feeds: dict[str, Any]
    base: str
    mutations: tuple[str, ...]
    op_types: tuple[str, ...]


def mutant(seed: str, index: int) -> Mutant:
    """The ``index``-th mutant of ``seed``."""
    cases = all_cases()
    rng = Random(f"{seed}:{index}")
    # Most of the others are refused whatever is done to them.
    case = rng.choice([case for case in cases if case.travels] if rng.random() < 0.95 else cases)
    draft = Draft(onnx.load_from_string(case.model), dict(case.feeds))
    done: list[str] = []
    for _ in range(rng.choice((1, 1, 1, 1, 1, 2, 2, 3, 5))):
        for mutate in rng.sample(MUTATIONS, len(MUTATIONS)):
            if mutate(rng, draft):
                done.append(mutate.__name__)
                break
    op_types = _op_types(draft.model)
    data = draft.model.SerializeToString()
    if rng.random() < 0.08 or len(data) > MAX_MODEL_BYTES:
        data = _damage(rng, data[:MAX_MODEL_BYTES])
        done.append("bytes_damaged")
        op_types = _op_types_in(data) or op_types
    return Mutant(data, draft.feeds, case.name, tuple(done), op_types)


def _op_types(model: onnx.ModelProto) -> tuple[str, ...]:
    # What is no UTF-8 comes as bytes.
    return tuple(sorted({str(node.op_type) for _, node in nodes_of(model.graph)}))


def _op_types_in(data: bytes) -> tuple[str, ...]:
    try:
        return _op_types(onnx.load_from_string(data))
    except DecodeError:
        return ()


def _damage(rng: Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(damaged) or 1)
        match rng.randrange(5):
            case 0:
                damaged[at : at + 1] = bytes((rng.randrange(256),))
            case 1 if damaged[at : at + 1]:
                damaged[at] ^= 1 << rng.randrange(8)
            case 2:
                del damaged[at : at + rng.choice((1, 2, 8, 64))]
            case 3:
                damaged[at:at] = rng.randbytes(rng.choice((1, 2, 10)))
            case _:
                piece = damaged[at : at + rng.choice((4, 16, 64))]
                to = rng.randrange(len(damaged) or 1)
                damaged[to:to] = piece
    return bytes(damaged)
