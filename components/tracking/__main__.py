"""`python -m torchmill.components.tracking`: the recorder, which reads from stdin which journal to follow."""

import sys

from torchmill.components.tracking.recorder import record
from torchmill.components.tracking.store import be_silent

be_silent()
with open(sys.stdin.fileno(), "rb", closefd=False) as orders:
    record(orders)
