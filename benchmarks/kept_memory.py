"""Images per second of trainings in a process that keeps the memory which a step frees, as stages do, beside one that does not.

Run: python benchmarks/kept_memory.py. Some minutes of --threads cores. Both take turns, each training in a process of its own;
of each the best of --rounds counts, since other work on a machine only ever slows one down. `peak_ratio` is of the most memory
that the processes took, interpreter and torch included. Images are noise, 32 x 32.
"""

from __future__ import annotations

import argparse
import json
from statistics import geometric_mean

import torch
from _report import finish
from _two_ways import measure, pairs

from edgesearch.objectives.training import processor_name
from edgesearch.search.engine import prepare_process

#: Network and batch.
CASES = [("resnet20", 128), ("vgg_small", 256), ("mobile_small", 128), ("staged 24k2 c2x96p c2x352p c2x352p max", 512)]


def prepared(keeps: bool, threads: int) -> None:
    if keeps:
        prepare_process(threads)
    else:
        torch.set_num_threads(threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, batch, keeps, threads = json.loads(arguments.case)
        prepared(keeps, threads)
        print(json.dumps(measure(name, batch)))
        return
    found = []
    for pair in pairs(__file__, CASES, rounds=arguments.rounds, threads=arguments.threads):
        found.append(pair)
        print(pair.line("memory is kept"), flush=True)
    finish(
        {
            "benchmark": "kept_memory",
            "speed_ratio": round(geometric_mean(pair.gain for pair in found), 2),
            "least_speed_ratio": round(min(pair.gain for pair in found), 2),
            "peak_ratio": round(geometric_mean(pair.growth for pair in found), 2),
            "most_peak_ratio": round(max(pair.growth for pair in found), 2),
            "device": processor_name(torch.device("cpu")),
            "threads": arguments.threads,
        }
    )


if __name__ == "__main__":
    main()
