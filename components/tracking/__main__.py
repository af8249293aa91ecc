"""`python -m torchmill.components.tracking`: the recorder. Stdin names the journal to follow."""

import sys

from torchmill.components.tracking.client import silence_mlflow
from torchmill.components.tracking.recorder import record

silence_mlflow()
with open(sys.stdin.fileno(), "rb", closefd=False) as orders:
    record(orders)
