"""Nodes of other CPUs on this one: onnxruntime is told that it runs on an older one."""
