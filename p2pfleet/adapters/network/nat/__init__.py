"""Routers in between: relays, hole punching, and whether others can dial this node."""
