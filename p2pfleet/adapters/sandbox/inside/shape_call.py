"""One operator on its way through the rules, and what they may ask of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .admission.onnx_graph import Attribute
from .admission.protobuf import Wire
from .shape_guess import MAX_RANK, NOTHING, Dims, Guess


class Call:
    """One operator with what is known of its inputs; ``outputs``: how many it has."""

    def __init__(
        self,
        op: str,
        inputs: list[Guess],
        outputs: int,
        attributes: Mapping[bytes, Attribute],
        wire: Wire,
    ) -> None:
        self.op = op
        self.inputs = inputs
        self.outputs = outputs
        self.attributes = attributes
        self.wire = wire

    def given(self, index: int) -> Guess:
        """An input; nothing is known of one that is left out."""
        return self.inputs[index] if index < len(self.inputs) else NOTHING

    def dims(self, index: int) -> Dims | None:
        """The shape of an input."""
        return self.given(index).dims

    def numbers(self, index: int) -> list[int] | None:
        """An input that is a short, known list of whole numbers."""
        found = self.given(index).numbers
        return None if found is None else [int(number) for number in found]

    def integer(self, name: bytes, default: int) -> int:
        """An attribute."""
        given = self.attributes.get(name)
        return default if given is None or given.i is None else given.i

    def integers(self, name: bytes) -> list[int] | None:
        """An attribute that is a list; ``None`` if it is missing or longer than any."""
        given = self.attributes.get(name)
        return None if given is None else given.integers(self.wire, 2 * MAX_RANK)

    def listed(self, name: bytes, index: int) -> list[int] | None:
        """What older models say in an attribute and newer ones in an input."""
        said = self.integers(name)
        return self.numbers(index) if said is None else said


Rule = Callable[[Call], list[Guess]]
