"""Images per second of trainings that compute small feature maps side by side, as all do where that pays, beside plain ones.

Run: python benchmarks/side_by_side.py, on a processor with matrix tiles (Intel's AMX); on others there is nothing to compare.
Some minutes of --threads cores. Both take turns, each training in a process of its own; of each the best of --rounds counts,
since other work on a machine only ever slows one down. Images are noise, 32 x 32.
"""

from __future__ import annotations

import sys

from _two_ways import compare

from edgesearch.objectives.training import _side_by_side
from edgesearch.search.processes import prepare_process

#: Network and batch. The first has small maps of 64 channels alone, which are left as they are: it shows how far a run varies.
CASES = [
    ("resnet20", 128),
    ("vgg_small", 256),
    ("resnet18", 128),
    ("staged 32k2 c2x64p c2x256p c2x256p max", 512),
    ("staged 24k2 c2x96p c2x352p c2x352p max", 512),
]


def prepare(beside: bool, threads: int) -> None:
    """As stages do, where no map is narrow enough, or with what they have."""
    prepare_process(threads)
    if not beside:
        _side_by_side._WIDEST = 0


if __name__ == "__main__":
    if not _side_by_side.processor_has_tiles():
        print(
            "this processor has no matrix tiles (amx_bf16 in /proc/cpuinfo), and trainings here are plain ones", file=sys.stderr
        )
        sys.exit(2)
    compare(__file__, str(__doc__), CASES, prepare, "maps lie side by side")
