"""`edgesearch` and `python -m edgesearch.search`."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; see `_cli.run` for exit codes."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from edgesearch.search.commands import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
