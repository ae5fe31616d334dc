"""What every test takes for granted of the process it runs in."""

import os
import signal

# A shell without job control starts background jobs with Ctrl-C ignored, and children inherit that: the tests of Ctrl-C
# would hang for a reason that lies outside them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Two workers share the cores; they and what they start must not each take all of them.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
