"""Escape attempts: arbitrary Python, with ctypes, inside a child that is locked down.

``files`` .. ``memory`` hold the attempts, each a function that returns what it got hold of.
``boot`` starts the real fork server and lets its real children run an attempt where they would load
a model; ``sandboxed`` drives that through the real pool; ``unlocked`` runs the same attempts in
plain processes of root, to show that each would work where nothing stops it.

What runs in a child (``attempt``, ``means``, ``taken_over`` and the attempts) imports nothing but
the standard library, and all of it before the child is locked down.
"""
