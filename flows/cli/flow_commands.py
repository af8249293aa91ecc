"""The beginning of each command that runs a flow."""

import signal
import sys
from typing import NoReturn

from torchmill.components.processes import check_address_space
from torchmill.flows.services.prefect_server import silence_prefect


def begin_flows() -> None:
    """Answer SIGTERM with an exit code of 143, and keep Prefect's own lines off the terminal.

    Raises:
        UserError: the address space is limited too much.
    """
    check_address_space()
    signal.signal(signal.SIGTERM, _terminated)
    silence_prefect()


def _terminated(*_: object) -> NoReturn:
    # During a flow, the signal comes to Prefect first, which ends the flow and passes the signal on.
    print("torchmill: stopped by SIGTERM.", file=sys.stderr)
    sys.exit(143)
