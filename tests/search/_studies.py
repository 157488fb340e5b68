"""Fake studies that look like real ones: the attributes are those that the engine writes, the figures follow simple laws."""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from edgesearch.search.study._record import Objective, Record, StudyView
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student

optuna.logging.set_verbosity(optuna.logging.ERROR)

DIRECTIONS = {
    "accuracy": "maximize",
    "fps": "maximize",
    "latency_ms": "minimize",
    "size_bytes": "minimize",
    "joules": "minimize",
}
#: Architecture -> best accuracy, frames per second at full width, mega-MACs, kilobytes.
NETWORKS = {
    "resnet18": (0.955, 210.0, 1820.0, 11200.0),
    "squeezenet1_1": (0.915, 690.0, 350.0, 1240.0),
    "mobilenet_v2": (0.940, 430.0, 310.0, 2300.0),
    "cnn_small": (0.885, 1900.0, 24.0, 260.0),
    "cnn_tiny": (0.840, 3200.0, 6.0, 60.0),
    "resnet20": (0.925, 980.0, 41.0, 270.0),
}
REASONS = (
    "stage pruned: no ratio vector within 1 % of 80 % of the MACs was found in 400 draws (log: logs/pruned-{key}.log)",
    "stage student: the loss became NaN in epoch 3; lower the learning rate (log: logs/student-{key}.log)",
)
START = datetime(2026, 11, 2, 9, 30)


def random_candidate(rng: np.random.Generator) -> Candidate:
    kind = str(rng.choice(["none", "logit", "self"]))
    method = str(rng.choice(["none", "one_step", "iterative"]))
    return Candidate(
        student=Student(
            architecture=str(rng.choice(list(NETWORKS))),
            width=float(rng.choice([0.5, 0.75, 1.0])),
            input_size=int(rng.choice([16, 24, 32])),
        ),
        distillation=Distillation(kind=kind, temperature=float(rng.choice([2.0, 4.0, 6.0])), alpha=0.5),
        pruning=Pruning(method=method, ratio=0.0 if method == "none" else round(float(rng.uniform(0.1, 0.9)), 2)),
        quantization=Quantization(method=str(rng.choice(["ptq", "qat"])), bits=int(rng.choice([8, 8, 8, 8, 8, 8, 5]))),
    ).canonical()


def figures_of(candidate: Candidate, rng: np.random.Generator) -> dict[str, float]:
    """Plausible figures: width, input size and pruning cost accuracy and buy speed."""
    best, fps, mega_macs, kilobytes = NETWORKS[candidate.student.architecture]
    width, ratio = candidate.student.width, candidate.pruning.ratio
    scale = (candidate.student.input_size / 32) ** 2
    macs = mega_macs * 1e6 * width**2 * scale * (1 - ratio)
    lost = 0.02 * math.log(1 / width) + 0.05 * (1 - scale) + 0.10 * ratio**3 + float(rng.exponential(0.02))
    lost -= 0.008 * (candidate.distillation.kind == "logit") + 0.004 * (candidate.quantization.method == "qat")
    accuracy = max(0.1, best - lost - (0.06 if candidate.quantization.bits == 5 else 0.0))
    throughput = fps / (0.25 + 0.75 * macs / (mega_macs * 1e6))
    return {
        "accuracy": round(accuracy, 4),
        "float_accuracy": round(min(1.0, accuracy + float(rng.uniform(0.0, 0.01))), 4),
        "fps": round(throughput, 2),
        "latency_ms": round(1900.0 / throughput, 3),
        "latency_fps": round(throughput / 1.9, 2),
        "size_bytes": int(kilobytes * 1024 * width**2 * (1 - ratio)),
        "macs": int(macs),
        "parameters": int(kilobytes * 1000 * width**2 * (1 - ratio)),
        "joules": round(12.0 / throughput, 4),
        "estimated_fps": round(throughput * float(rng.uniform(0.97, 1.03)), 2),
    }


def make_study(
    trials: int = 60,
    *,
    seed: int = 0,
    objectives: Sequence[str] = ("accuracy", "fps"),
    constraints: dict[str, float] | None = None,
    storage: str | None = None,
    name: str = "demo",
    failing: float = 0.05,
    running: int = 1,
) -> optuna.Study:
    """A study with `trials` ended trials, a share `failing` of them failed, and `running` unfinished ones."""
    rng = np.random.default_rng(seed)
    study = optuna.create_study(study_name=name, storage=storage, directions=[DIRECTIONS[o] for o in objectives])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    limits = dict.fromkeys(("min_accuracy", "min_fps", "max_latency_ms", "max_size_bytes")) | (constraints or {})
    settings = {"name": name, "objectives": list(objectives), "constraints": limits, "board": "zcu104", "seed": seed}
    study.set_user_attr("study", settings | {"description": "Handwritten digits, made harder"})
    study.set_user_attr("rejected", trials // 3)
    study.set_user_attr("repeats", trials // 7)
    study.set_user_attr("rejections", {"min_fps": trials // 3 - trials // 9, "unsupported": trials // 9})
    nearest = {"candidate": "cnn_small x2 @8", "distance": 0.0225, "misses": {"min_fps": {"limit": 400.0, "expected": 391.0}}}
    study.set_user_attr("nearest_rejected", nearest)
    stored: set[str] = set()
    made = [make_trial(rng, i, objectives, limits, stored, failing) for i in range(trials)]
    made += [running_trial(rng, trials + i) for i in range(running)]
    study.add_trials(made)
    return study


def running_trial(rng: np.random.Generator, number: int) -> FrozenTrial:
    candidate = random_candidate(rng)
    attributes = {"candidate": candidate.model_dump(), "candidate_key": candidate.key, "deployable": candidate.deployable}
    trial = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
    trial.datetime_start = START + timedelta(seconds=20 * number)
    return trial


def make_trial(
    rng: np.random.Generator,
    number: int,
    objectives: Sequence[str],
    limits: dict[str, float | None],
    stored: set[str],
    failing: float = 0.05,
) -> FrozenTrial:
    """One ended trial; `stored` collects the stages that earlier trials left behind."""
    candidate = random_candidate(rng)
    keys = stage_keys(candidate)
    hits = [kind for kind, key in keys.items() if key in stored]
    full = {"teacher": 41.0, "student": 22.0, "pruned": 9.0, "quantized": 3.0, "measured": 0.4}
    seconds = {kind: round(full[kind] * float(rng.uniform(0.7, 1.3)), 3) for kind in keys if kind not in hits}
    attributes: dict[str, Any] = {
        "candidate": candidate.model_dump(),
        "candidate_key": candidate.key,
        "deployable": candidate.deployable,
        "stage_seconds": seconds,
        "cache_hits": hits,
        "ask_seconds": round(float(rng.uniform(0.01, 0.08)), 4),
    }
    begin = START + timedelta(seconds=20 * number)
    drawn: dict[str, Any] = {"params": params_of(candidate), "distributions": DISTRIBUTIONS}
    if rng.random() < failing:
        attributes["failure"] = REASONS[number % len(REASONS)].format(key=candidate.key[:16])
        trial = create_trial(state=TrialState.FAIL, user_attrs=attributes, **drawn)
    else:
        stored.update(keys.values())
        figures = figures_of(candidate, rng)
        violations = {}
        for name, limit in limits.items():
            side, _, metric = name.partition("_")
            amount = 0.0 if limit is None else (limit - figures[metric] if side == "min" else figures[metric] - limit)
            if amount > 0:
                violations[name] = amount
        attributes |= {
            **{n: v for n, v in figures.items() if n != "joules" or n in objectives},
            "artifacts": keys,
            "violations": violations,
        }
        system = {
            f"constraints:{name}": float(limit - figures[metric] if side == "min" else figures[metric] - limit)
            for name, limit in limits.items()
            if limit is not None
            for side, _, metric in [name.partition("_")]
        }
        trial = create_trial(
            values=[figures[o] for o in objectives],
            user_attrs=attributes,
            system_attrs=system,
            state=TrialState.COMPLETE,
            **drawn,
        )
    trial.datetime_start, trial.datetime_complete = begin, begin + timedelta(seconds=sum(seconds.values()))
    return trial


#: What the sampler drew: the candidate's settings that vary.
DISTRIBUTIONS = {
    "student": CategoricalDistribution(list(NETWORKS)),
    "width": CategoricalDistribution([0.5, 0.75, 1.0]),
    "distillation": CategoricalDistribution(["none", "logit", "self"]),
    "ratio": FloatDistribution(0.0, 0.9),
}


def params_of(candidate: Candidate) -> dict[str, Any]:
    return {
        "student": candidate.student.architecture,
        "width": candidate.student.width,
        "distillation": candidate.distillation.kind,
        "ratio": candidate.pruning.ratio,
    }


def stage_keys(candidate: Candidate) -> dict[str, str]:
    """Stage kind -> key: as in the pipeline, the key depends on the stage's own settings and on what it starts from."""
    parts = {"student": [candidate.student, candidate.distillation]}
    if candidate.distillation.kind == "logit":
        parts = {"teacher": []} | parts
    if candidate.pruning.method != "none":
        parts["pruned"] = [*parts["student"], candidate.pruning]
    parts["quantized"] = [*parts["student"], candidate.pruning, candidate.quantization]
    parts["measured"] = [*parts["quantized"], "zcu104"]
    return {kind: hashlib.sha256(f"{kind} {settings}".encode()).hexdigest() for kind, settings in parts.items()}


def plain_record(number: int, values: Sequence[float], names: Sequence[str] = ("accuracy", "fps"), **more: Any) -> Record:
    """A complete, deployable record with these objective values."""
    objectives = tuple(Objective(name, DIRECTIONS[name] == "maximize") for name in names)
    metrics = dict(zip(names, values, strict=True)) | more.pop("metrics", {})
    return Record(number, "COMPLETE", objectives, values=tuple(values), metrics=metrics, **({"deployable": True} | more))


def crowded_view() -> StudyView:
    """A front whose knee has trials that break a constraint right beside it, where its label would be."""
    good = [plain_record(i, values) for i, values in enumerate([(0.90, 100.0), (0.86, 400.0), (0.60, 900.0)])]
    beside = [(0.86 + 0.008 * (i % 5), 420.0 + 12.0 * i) for i in range(1, 16)]
    broken = [replace(plain_record(3 + i, values), violations={"max_size_bytes": 1.0}) for i, values in enumerate(beside)]
    return StudyView("crowded", good[0].objectives, {"max_size_bytes": 1.0}, (*good, *broken))
