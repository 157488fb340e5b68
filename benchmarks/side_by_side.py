"""Images per second of trainings that compute small feature maps side by side, as all do where that pays, beside plain ones.

Run: python benchmarks/side_by_side.py, on a processor with matrix tiles (Intel's AMX); on others there is nothing to compare.
Some minutes of --threads cores. Both take turns, each training in a process of its own; of each the best of --rounds counts,
since other work on a machine only ever slows one down. Images are noise, 32 x 32.
"""

from __future__ import annotations

import argparse
import json
from statistics import geometric_mean

import torch
from _report import finish
from _two_ways import measure, pairs

from edgesearch.objectives.training import _side_by_side, processor_name
from edgesearch.search.engine import prepare_process

#: Network and batch. The first has small maps of 64 channels alone, which are left as they are: it shows how far a run varies.
CASES = [
    ("resnet20", 128),
    ("vgg_small", 256),
    ("resnet18", 128),
    ("staged 32k2 c2x64p c2x256p c2x256p max", 512),
    ("staged 24k2 c2x96p c2x352p c2x352p max", 512),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        name, batch, beside, threads = json.loads(arguments.case)
        prepare_process(threads)
        if not beside:
            _side_by_side._WIDEST = 0
        print(json.dumps(measure(name, batch)))
        return
    if not _side_by_side.processor_has_tiles():
        parser.exit(2, "this processor has no matrix tiles (amx_bf16 in /proc/cpuinfo), and trainings here are plain ones\n")
    found = []
    for pair in pairs(__file__, CASES, rounds=arguments.rounds, threads=arguments.threads):
        found.append(pair)
        print(pair.line("maps lie side by side"), flush=True)
    finish(
        {
            "benchmark": "side_by_side",
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
