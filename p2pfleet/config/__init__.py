"""What the owner of a node decides: ``node.toml`` and ``network.toml`` as checked, frozen values.

A file is read whole before anything is refused, so that every mistake in it is reported at once,
each with its line and its key.
"""
