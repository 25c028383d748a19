"""What a child may say, and nothing else: every reply is taken for hostile until it fits."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2pfleet.adapters.sandbox.inside.bundle import BadBundle, read_bundle
from p2pfleet.adapters.sandbox.inside.terms import INLINE_BYTES, MAX_REASON_CHARS
from p2pfleet.core.wire.tensors import MAX_RANK, MAX_TENSORS, DType
from p2pfleet.ports import ExecutionFault, ModelSignature, TensorSpec

RequestId = Annotated[int, Meta(ge=0, lt=2**53)]


class BadReply(Exception):
    """The child broke the rules of the channel; the reason says which."""


class Spec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One input or output, as the child read it from the model."""

    name: Annotated[str, Meta(min_length=1, max_length=256)]
    dtype: DType
    shape: Annotated[
        tuple[Annotated[int, Meta(ge=0, lt=2**40)] | None, ...], Meta(max_length=MAX_RANK)
    ]


Specs = Annotated[tuple[Spec, ...], Meta(max_length=MAX_TENSORS)]


class Ready(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="ready"):
    """The model is loaded."""

    request: RequestId
    inputs: Specs
    outputs: Specs

    def signature(self) -> ModelSignature:
        """Raises :class:`BadReply` if two tensors share a name."""
        return ModelSignature(_tensor_specs(self.inputs), _tensor_specs(self.outputs))


class Done(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="done"):
    """A unit ran; ``payload`` is the output bundle, or its size in the arena."""

    request: RequestId
    payload: (
        Annotated[bytes, Meta(max_length=INLINE_BYTES)]
        | Annotated[int, Meta(gt=INLINE_BYTES, lt=2**53)]
    )
    cpu_ms: Annotated[int, Meta(ge=0, lt=2**40)]


class Counted(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="counted"
):
    """How many operations a unit takes, by the model's graph."""

    request: RequestId
    work: Annotated[int, Meta(ge=1, lt=2**53)]


class Fault(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag="fault"):
    """The model or the unit cannot be run."""

    request: RequestId
    kind: Literal["model", "input", "memory", "output"]
    reason: Annotated[str, Meta(max_length=MAX_REASON_CHARS)]

    def to_execution_fault(self) -> ExecutionFault:
        """For the node: printable, bounded, and marked as the child's own words."""
        text = "".join(char if char.isprintable() else " " for char in self.reason)
        return ExecutionFault(self.kind, f'the child says: "{text}"')


Reply = Ready | Done | Counted | Fault


def loaded(reply: Reply) -> ModelSignature:
    """The signature in the answer to loading a model. Raises :class:`BadReply`."""
    if not isinstance(reply, Ready):
        raise BadReply("an answer to nothing")
    return reply.signature()


def shapes_of(bundle: bytes) -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape of every tensor in this node's own ``bundle``, as a child is told them."""
    return [(entry.name, tuple(entry.shape)) for entry in read_bundle(memoryview(bundle))]


_decoder: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def parse_reply(data: bytes, request: int) -> Reply:
    """The child's answer to ``request``. Raises :class:`BadReply`."""
    try:
        reply = _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise BadReply(f"not a reply: {str(error)[:200]}") from error
    if reply.request != request:
        raise BadReply(f"a reply to request {reply.request} where {request} was asked")
    return reply


def check_outputs(bundle: bytes, signature: ModelSignature) -> None:
    """That ``bundle`` is canonical and holds the model's outputs. Raises :class:`BadReply`.

    Shapes are not held against the signature: models may well declare them wrongly.
    """
    try:
        entries = read_bundle(memoryview(bundle))
    except BadBundle as error:
        raise BadReply(f"the outputs are not a canonical bundle: {error}") from None
    if [(entry.name, entry.dtype) for entry in entries] != [
        (spec.name, spec.dtype) for spec in signature.outputs
    ]:
        raise BadReply("the outputs are not those of the model")


def _tensor_specs(specs: tuple[Spec, ...]) -> tuple[TensorSpec, ...]:
    if len({spec.name for spec in specs}) != len(specs):
        raise BadReply("two inputs or two outputs share a name")
    return tuple(TensorSpec(spec.name, spec.dtype, spec.shape) for spec in specs)
