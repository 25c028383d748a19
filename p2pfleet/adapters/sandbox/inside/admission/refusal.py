"""How a model is refused: which rule, which node, where, why."""

from __future__ import annotations

from typing import NamedTuple

_SHOWN_CHARS = 48
_SHOWN_LEVELS = 2


class Refusal(Exception):
    """The model breaks a rule; ``str()`` is a sentence for the publisher."""

    def __init__(self, rule: str, who: str, why: str) -> None:
        super().__init__(f'{who} breaks the rule "{rule}": {why}')
        self.rule = rule


def shown(name: bytes | str) -> str:
    """A name out of the model, for a sentence: quoted, and cut where it is long."""
    text = name.decode("utf-8", "replace") if isinstance(name, bytes) else name
    return repr(text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 1] + "…")


class Place(NamedTuple):
    """Where in a model something stands; ``Place("the model", None)`` is the outermost."""

    who: str
    within: Place | None

    def __str__(self) -> str:
        parts: list[str] = [self.who]
        place = self.within
        while place is not None and place.within is not None and len(parts) <= _SHOWN_LEVELS:
            parts.append(place.who)
            place = place.within
        if place is not None and place.within is not None:
            parts.append("…")
        return " in ".join(parts)

    def refuse(self, rule: str, why: str) -> Refusal:
        """The refusal of what stands here."""
        return Refusal(rule, str(self), why)


THE_MODEL = Place("the model", None)
