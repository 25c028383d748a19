"""Which adversaries there are, by the name that scenarios use."""

from __future__ import annotations

from p2pfleet.sim.adversaries.behaviour import Behaviour
from p2pfleet.sim.adversaries.boaster import Boaster
from p2pfleet.sim.adversaries.colluder import Colluder
from p2pfleet.sim.adversaries.copier import Copier
from p2pfleet.sim.adversaries.crook import Crook
from p2pfleet.sim.adversaries.equivocator import Equivocator
from p2pfleet.sim.adversaries.free_rider import FreeRider
from p2pfleet.sim.adversaries.hoarder import Hoarder
from p2pfleet.sim.adversaries.leaver import Leaver
from p2pfleet.sim.adversaries.liar import Liar
from p2pfleet.sim.adversaries.on_off import OnOff
from p2pfleet.sim.adversaries.secretive import Secretive
from p2pfleet.sim.adversaries.spammer import Spammer
from p2pfleet.sim.adversaries.sybil import Sybil
from p2pfleet.sim.adversaries.withholder import Withholder

ADVERSARIES: dict[str, type[Behaviour]] = {
    "": Behaviour,
    "liar": Liar,
    "colluder": Colluder,
    "copier": Copier,
    "on-off": OnOff,
    "sybil": Sybil,
    "equivocator": Equivocator,
    "free-rider": FreeRider,
    "hoarder": Hoarder,
    "withholder": Withholder,
    "secretive": Secretive,
    "spammer": Spammer,
    "leaver": Leaver,
    "crook": Crook,
    "boaster": Boaster,
}
