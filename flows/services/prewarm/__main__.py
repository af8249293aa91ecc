"""`python -m torchmill.flows.services.prewarm ADDRESS MODULES`: the prewarmed process."""

import sys
from pathlib import Path

from torchmill.flows.cli.main import main
from torchmill.flows.services.interpreter import leave_at_once
from torchmill.flows.services.prewarm.server import serve

if __name__ == "__main__":
    serve(Path(sys.argv[1]), Path(sys.argv[2]), main)
    leave_at_once(0)
