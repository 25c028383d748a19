"""The pure core: no input or output, no clock, no randomness of its own, no trio, no libp2p.

A machine takes ``(event, now)``, changes itself, and returns effects; the runtime carries them out
and feeds what happens back as events. The same code therefore runs on real nodes, in replays of
recordings, and in simulation.
"""
