"""Put the committed results of studies (studies/results) into the tables of README and docs; `--check` only tells.

Prints one line of JSON: the documents, and those whose tables are not those of the results.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgesearch.search.report import refresh

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> int:
    """Refresh, or with `--check` tell; returns 1 when a table was not up to date."""
    check = "--check" in sys.argv[1:]
    stale = [str(path.relative_to(ROOT)) for path in DOCUMENTS if refresh(path, ROOT / "studies" / "results", write=not check)]
    print(json.dumps({"documents": len(DOCUMENTS), "written" if not check else "stale": stale}))
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
