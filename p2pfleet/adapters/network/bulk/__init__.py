"""Blobs: the bulk channel beside libp2p, and streams where that does not reach."""
