"""What runs on the far side of the wall: the fork server and its children.

Started by path, in a bare interpreter, without the rest of p2pfleet: nothing here imports more than
the standard library, numpy, msgpack and onnxruntime, and nothing here ever holds a key or a
network connection. ``bundle``, ``terms`` and ``syscalls`` are the only modules whose code the node
uses as well.
"""
