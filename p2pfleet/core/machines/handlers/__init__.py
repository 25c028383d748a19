"""What a node does with an event, one module a theme.

Each has a table from the type of an event to the function that takes it in; ``node`` puts the
tables together. What a module offers to others has a public name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from p2pfleet.core.effects import Effect
from p2pfleet.core.model.ids import Millis

if TYPE_CHECKING:
    from p2pfleet.core.machines.node import Node

Table = dict[type, Callable[["Node", Any, Millis], list[Effect]]]
"""The handlers of some types of events; each is only given events of its own type."""
