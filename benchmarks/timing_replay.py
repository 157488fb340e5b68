"""The model's schedule against the code that AMD's compiler wrote, both timed with the shipped constants.

The tokens of three compiled files are replayed: an instruction starts when its engine is free, when it was issued, and when
those that it waits for have ended. What the model makes of the same networks should take as long. (The host's time, which
"measured" is without, was fitted to the third of them and to a ResNet-50.)
"""

from __future__ import annotations

import sys
from unittest.mock import patch

from _published import table_one, zoo_fps
from _report import REFERENCE_DATA, finish
from _zoo import ZOO

from edgesearch.board_eval.isa import decode
from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing import _emission, code_cycles, run_code, time_graph
from edgesearch.board_eval.timing._emission import QUEUE_DEPTH
from edgesearch.board_eval.xmodel import read_compiled

#: Compiled file -> the row of Table I that it was measured for.
FILES = {
    "SqueezeNet_ptq_zcu104": "SqueezeNet distilled + PTQ",
    "MobileNetV2_ptq_zcu104": "MobileNetV2 distilled + PTQ",
    "ResNet50_095_zcu104": "ResNet-50 one-step 95 % + PTQ",
}
DEPTHS = (8, 16, 32, 64, 128, 10**6)


#: MobileNetV1 networks of the zoo: the first two fit on the chip, where queues count; in the others
#: the barrier does.
MOBILENETS = (
    "tf_mobilenetv1_0.25_imagenet_128_128_27M",
    "tf_mobilenetv1_0.5_imagenet_160_160_150M",
    "tf_mobilenetv1_1.0_imagenet_224_224_1.14G",
    "tf2_mobilenetv1_imagenet_224_224_1.15G",
)


def mobilenets() -> None:
    """Errors of the time of one core, by depth of the queues, and with the barrier of compiled files behind the last step."""
    kv260, published = load_profile("kv260"), zoo_fps()
    print("\nerror of the DPU's time, %, queues of" + "".join(f"{depth:>9,d}" for depth in DEPTHS) + "   other barrier")

    def error(name: str) -> float:
        timing = time_graph(ZOO[name][1](name), kv260, layers=False)
        return 100 * ((timing.dpu_s + kv260.job_seconds) * published[name, "KV260"][1] - 1)

    for name in MOBILENETS:
        by_depth = []
        for depth in DEPTHS:
            with patch.object(_emission, "QUEUE_DEPTH", depth):
                by_depth.append(error(name))
        with patch.object(_emission, "is_chain", return_value=False):
            other = error(name)
        print(f"{name:37.37s}" + "".join(f"{value:+9.2f}" for value in by_depth) + f"{other:+16.2f}")


def main() -> None:
    if not REFERENCE_DATA.is_dir():
        sys.exit(f"no reference data at {REFERENCE_DATA}; set EDGESEARCH_REFERENCE_DATA")
    profile, table = load_profile("zcu104"), table_one()
    around = profile.job_seconds + profile.runner("thesis_script").of(224**2)
    depths = "".join(f"{depth:>9,d}" for depth in DEPTHS)
    print(f"{'DPU time in microseconds':32s} {'measured':>9s} {'model':>9s}   replay with queues of{depths}")
    figures = {}
    for file, row in FILES.items():
        graph, fps = table[row]
        program = decode(read_compiled(REFERENCE_DATA / "compiled" / f"{file}.xmodel").code)
        cycles = code_cycles(program, profile.constants, profile.dpu)
        replayed = {depth: max(run_code(program, cycles, depth=depth)[0]) / profile.clock_mhz for depth in DEPTHS}
        model = 1e6 * time_graph(graph, profile, layers=False).dpu_s
        times = "".join(f"{value:9.1f}" for value in replayed.values())
        print(f"{file:32s} {1e6 * (1 / fps - around):9.1f} {model:9.1f} {'':24s} {times}")
        figures[f"{file}_model_over_replay_pct"] = round(100 * (model / replayed[QUEUE_DEPTH] - 1), 3)
    mobilenets()
    finish({"benchmark": "timing_replay", "queue_depth": QUEUE_DEPTH, **figures})


if __name__ == "__main__":
    main()
