"""Starts the command `replicator`."""

from __future__ import annotations

import signal


def main() -> None:
    """As `cli.main.main`, also if Ctrl-C is pressed while the modules are imported: then without a traceback."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from replicator.cli.main import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
