"""Adversaries: one file each, behind :class:`~p2pfleet.sim.adversaries.behaviour.Behaviour`."""
