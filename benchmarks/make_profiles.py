"""Fit the shipped board profiles to the published figures, by what `edgesearch calibrate` does, and write them.

Usage: python benchmarks/make_profiles.py [FOLDER]; without a folder it only prints what it would write.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from _published import measurements, write
from _report import finish

from edgesearch.board_eval.targets import BoardProfile, HostOverhead, TimingConstants, load_dpu
from edgesearch.board_eval.timing import calibrate_file

#: Where the fit starts: the constants of a first fit to eight networks.
START = BoardProfile(
    name="start",
    dpu=load_dpu("B4096"),
    cores=2,
    clock_mhz=300,
    constants=TimingConstants(
        load=28.6, load_word=0.42, load_bytes_per_cycle=27.8, save=37.8, save_word=0.53, conv=1.0, alu=37.0, alu_step=0.84,
        elew=5.0, elew_step=0.75,
    ),
    job_seconds=70e-6,
    multi_core_efficiency=0.9,
    host_python=HostOverhead(seconds=1.12e-3),
    host_cpp=HostOverhead(seconds=60e-6, seconds_per_pixel=0.445e-3 / 224**2),
)  # fmt: skip
ORIGIN = (
    "fitted by benchmarks/make_profiles.py to AMD's Model Zoo 3.0 (22 unpruned classification networks, KV260 one core and"
    " ZCU104) and two rows of Table I of the thesis (ResNet-50, ResNet-50 pruned by 95 %)"
)


def rounded(value: object) -> object:
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main() -> None:
    profiles = {}
    for board, name, cores in (("ZCU104", "zcu104", 2), ("KV260", "kv260", 1)):
        rows, graphs = measurements(board)
        with tempfile.TemporaryDirectory() as folder:
            start = START.model_copy(update={"cores": cores})
            found = calibrate_file(write(Path(folder), rows, graphs), start, name=name)
        print(f"{name}: mean absolute error over its {len(rows)} rows {100 * found.mean_absolute:.2f} %")
        profiles[name] = found.profile.model_copy(update={"origin": ORIGIN})
    # nothing published for the ZCU102 is used: the ZCU104's constants at its clock and number of cores
    origin = "the constants of zcu104 at 281 MHz and with 3 cores; not fitted"
    changes = {"name": "zcu102", "cores": 3, "clock_mhz": 281.0, "origin": origin}
    profiles["zcu102"] = profiles["zcu104"].model_copy(update=changes)
    for name, profile in profiles.items():
        clean = BoardProfile.model_validate(rounded(profile.model_dump()))
        print(clean.to_json())
        if len(sys.argv) > 1:
            (Path(sys.argv[1]) / f"{name}.json").write_text(clean.to_json())
    finish({"profiles": sorted(profiles)})


if __name__ == "__main__":
    main()
