"""Images per second of trainings in a process that keeps the memory which a step frees, as stages do, beside one that does not.

Run: python benchmarks/kept_memory.py. Some minutes of --threads cores. Both take turns, each training in a process of its own;
of each the best of --rounds counts, since other work on a machine only ever slows one down. `peak_ratio` is of the most memory
that the processes took, interpreter and torch included. Images are noise, 32 x 32.
"""

from __future__ import annotations

import torch
from _two_ways import compare

from edgesearch.search.processes import prepare_process, with_whole_blocks

#: Network and batch.
CASES = [("resnet20", 128), ("vgg_small", 256), ("mobile_small", 128), ("staged 24k2 c2x96p c2x352p c2x352p max", 512)]


def prepare(keeps: bool, threads: int) -> None:
    """As stages do, or with no more than their threads."""
    if keeps:
        prepare_process(threads)
    else:
        torch.set_num_threads(threads)


if __name__ == "__main__":
    compare(__file__, str(__doc__), CASES, prepare, "memory is kept", with_whole_blocks)
