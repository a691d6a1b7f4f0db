"""The command line as a process: `angularkd`, and `python -m angularkd`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line of this process; Ctrl-C ends it in one line from the first import on."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        os.environ.setdefault(
            "TORCH_CPP_LOG_LEVEL", "ERROR"
        )  # what PyTorch warns of in every process, and of those that end
    try:
        from angularkd.cli import main as run

        if sys.stdout is not None:
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        run()
    except KeyboardInterrupt:
        print("angularkd: interrupted", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
