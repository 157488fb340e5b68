"""Table I of the thesis against the timing model: one image in flight, Python runner, ZCU104."""

from __future__ import annotations

import sys

import numpy as np
from _published import FITTED_ROWS, table_one
from _report import REFERENCE_DATA, finish

from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing import time_graph


def main() -> None:
    if not REFERENCE_DATA.is_dir():
        sys.exit(f"no reference data at {REFERENCE_DATA}; set EDGESEARCH_REFERENCE_DATA")
    profile = load_profile("zcu104")
    errors: dict[str, float] = {}
    print(f"{'row of Table I':46s} measured  predicted  error of the time")
    for row, (graph, fps) in table_one().items():
        timing = time_graph(graph, profile, runner="thesis_script", layers=False)
        errors[row] = 100 * (fps / timing.latency_fps - 1)
        note = "  (used in the fit)" if row in FITTED_ROWS else ""
        print(f"{row:46s} {fps:8.2f}  {timing.latency_fps:9.2f}  {errors[row]:+6.2f} %{note}")
    absolute = np.abs(list(errors.values()))
    # the two other unpruned ResNet-50 rows are the network of a fitted row: they tell nothing about prediction
    held_out = np.abs([e for row, e in errors.items() if row not in FITTED_ROWS and not row.startswith("ResNet-50 QAT")])
    finish(
        {
            "benchmark": "timing_thesis",
            "rows": len(errors),
            "mean_abs_pct": round(float(absolute.mean()), 2),
            "max_abs_pct": round(float(absolute.max()), 2),
            "fitted_rows": len(FITTED_ROWS),
            "held_out_rows": len(held_out),
            "held_out_mean_abs_pct": round(float(held_out.mean()), 2),
        }
    )


if __name__ == "__main__":
    main()
