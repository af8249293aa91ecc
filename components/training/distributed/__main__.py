"""`python -m torchmill.components.training.distributed`: a worker. Its arguments are the folders of its job."""

import gc
import sys
from pathlib import Path

if __name__ == "__main__":
    gc.disable()  # collecting garbage takes a tenth of the imports' time
    from torchmill.components.training.distributed.worker import main

    gc.freeze()  # imported modules stay
    gc.enable()
    sys.exit(main(*map(Path, sys.argv[1:])))
