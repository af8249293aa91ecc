"""`python -m torchmill.components.training.distributed`: a worker. Its arguments are the folders of its job."""

import gc
import sys
from pathlib import Path

from torchmill.components.training.distributed.parent_watch import watch_parents

if __name__ == "__main__":
    folders = [Path(folder) for folder in sys.argv[1:]]
    watch_parents(*folders)
    gc.disable()  # collecting garbage takes a tenth of the imports' time
    from torchmill.components.training.distributed.worker import main

    gc.enable()  # nothing is frozen: libraries look at the end whether their objects have gone
    sys.exit(main(*folders))
