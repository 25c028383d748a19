"""The only mutable state of the core. Each machine holds one concern; ``node`` routes to them.

Machines are msgspec structs, so that the whole state can be written down and read back: a
recording starts with it, and a replay continues from it.
"""
