"""`python -m torchmill`: the command line."""

import sys

# Python puts the current folder first, where a file of the user's may have the name of a library's.
if not sys.flags.safe_path:
    del sys.path[0]

from torchmill.flows.cli.main import main

main()
