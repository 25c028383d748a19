"""Holds the data folder named on the command line until it is killed; prints when it does.

With the word ``fork`` behind it, leaves a child process that inherited the lock; prints its id.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from p2pfleet.adapters.store import lock_data_dir

with lock_data_dir(Path(sys.argv[1])):
    if sys.argv[2:] == ["fork"]:
        child = os.fork()
        if child == 0:
            os.close(1)
            signal.pause()
        sys.stdout.write(f"{child}\n")
    else:
        sys.stdout.write("held\n")
    sys.stdout.flush()
    signal.pause()
