"""Checkers: one file each, behind :class:`~p2pfleet.sim.checkers.checker.Checker`."""
