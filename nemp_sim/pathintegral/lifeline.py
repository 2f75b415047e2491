"""i-PI in a process that does not outlive the one that started it, however that one ends.

python lifeline.py PROGRAM ARGUMENTS... runs a Python program. Its standard input is a pipe whose
other end the starting process holds and never writes to: once that process is gone, killed even,
the pipe ends, and the program gets the signal at which i-PI writes its restart file. Without this
i-PI would wait for ever for clients that never come back.

Started by its path, so that it needs no installed package; its directory is no place for imports.
"""

import os
import runpy
import signal
import sys
import threading
import time

STOP_S = 30.0  # longest wait for i-PI to write its restart file


def _leave_with_the_starter() -> None:
    os.read(0, 1)  # unbuffered: a thread must not hold a lock of sys.stdin at the end
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_S)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_leave_with_the_starter, daemon=True).start()
    here = os.path.dirname(os.path.abspath(sys.argv.pop(0)))
    sys.path[:] = [place for place in sys.path if place != here]
    runpy.run_path(sys.argv[0], run_name="__main__")
