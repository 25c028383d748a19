"""The local control socket: how the command line talks to a running node.

A Unix stream socket (0600) in the data folder; one JSON request a line, one JSON answer a line.
"""
