"""Loads or creates the identity files that are named on stdin, one a line; prints each seed."""

from __future__ import annotations

import sys
from pathlib import Path

from p2pfleet.adapters.store import load_or_create_identity

sys.stdout.write("ready\n")
sys.stdout.flush()
for line in sys.stdin:
    sys.stdout.write(load_or_create_identity(Path(line.strip())).hex() + "\n")
    sys.stdout.flush()
