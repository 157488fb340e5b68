"""Records a study for replay: every candidate of its space, stage by stage, with the processor's seconds of one thread.

`python benchmarks/record_replay.py FOLDER --output TABLE.json.gz`: goes on in FOLDER where it was stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from edgesearch.search.study import load_study
from edgesearch.testing._recording import record_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--study", default=str(Path(__file__).parent / "replay_grid.toml"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    table = record_study(load_study(arguments.study), arguments.folder, note=lambda line: print(line, flush=True))
    table.save(arguments.output)
    print(f"{len(table.estimates)} candidates, {len(table.entries)} stages, {arguments.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
