"""A trial on a board: its file made, pushed and run there, and what came of it compared and kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from edgesearch.board_eval import (
    BOARDS,
    BoardProfile,
    BoardRun,
    Boards,
    CompiledXmodel,
    Compiler,
    Graph,
    LogitsComparison,
    SshBoard,
    append_measurements,
    appendable_columns,
    execute,
    is_profile_path,
    load_boards,
)
from edgesearch.board_eval.remote import check_boards, is_board_busy
from edgesearch.board_eval.timing import CPP_RUNNER, program_runner
from edgesearch.errors import BoardError, StudyError, ToolchainError
from edgesearch.files import write_atomically
from edgesearch.objectives import load_graph, prepare
from edgesearch.search.export import stored_artifact
from edgesearch.search.library._deployment import DeployedFile, Deployment, Figures
from edgesearch.search.library._measurements import measurement_rows, name_in, unsettled
from edgesearch.search.library._numbers import check_number

if TYPE_CHECKING:
    from edgesearch.search.library._front import StudyRecord

__all__ = ["deploy_record"]

#: Most seconds of a step of the look at a board before anything is compiled for it.
_LOOK_S = 30.0
#: Images that are executed at a time.
_BATCH = 256

Note: TypeAlias = Callable[[str], object]
Labels: TypeAlias = npt.NDArray[np.integer]


def deploy_record(
    record: StudyRecord,
    board: str,
    *,
    compiler: Compiler | None,
    images: int,
    output: Path | None,
    csv: Path | None,
    note: Note,
) -> Deployment:
    """See `Study.deploy`."""
    study = record.study
    check_number("images", images, int, least=1)
    graph = load_graph(stored_artifact(study._store(), record, "quantized"))
    if not record.candidate.deployable:
        raise StudyError(f"trial {record.number} is not deployable: {record.candidate.hindrance}; choose another trial")
    if csv is not None:
        appendable_columns(csv)
    found = _find_free_board(board, note=note)
    folder = study.home.deployments(study.name) if output is None else output
    file, xmodel = _exported(record, folder, compiler, note)
    data = study.inputs.data
    labels = data.validation.labels[:images]
    note(f"board {found.name}: pushes what it lacks, runs {len(labels):,} validation images")
    run = found.run(xmodel, prepare(data.validation.images[:images], graph.input.shape[0], data.normalisation), labels)
    deployment = _compared(record, found, run, labels, graph=graph, file=file, xmodel=xmodel)
    _write(deployment)
    if csv is not None and deployment.logits.equal:
        network = name_in(csv, deployment.file.path)
        append_measurements(csv, measurement_rows(network, run.report, found.profile.cores))
        for what in unsettled(run.report):
            note(f"warning: {what} did not settle, and its row is in {csv} all the same; measure again, or take it out")
    return deployment


def _find_free_board(name: str, *, note: Note) -> SshBoard:
    """The board of this name, or the first free one of the pool of this name, once it was entered and serves.

    Raises BoardError where there is none of that name, and where it does not serve or none of the pool is free.
    """
    boards = load_boards()
    if name in boards.pools:
        return SshBoard(boards.board(_first_free(name, boards, note)))
    if name in BOARDS or is_profile_path(name):
        raise BoardError(
            f"{name!r} is a simulated board, on which nothing can be deployed; give the name of one of {boards.path} "
            "(`edgesearch board list`)"
        )
    settings = boards.board(name)
    for _, checks in check_boards(boards, [name], limit_s=_LOOK_S):
        faults = [check for check in checks if check.is_good is False]
        if faults:
            said = faults[0].text
            raise BoardError(said if faults[0].name == "reachable" else f"board {name!r}, {faults[0].name}: {said}")
    return SshBoard(settings)


def _first_free(pool: str, boards: Boards, note: Note) -> str:
    refused: list[str] = []
    for name, checks in list(check_boards(boards, boards.pools[pool], limit_s=_LOOK_S)):
        fault = next((f"{check.name}: {check.text}" for check in checks if check.is_good is False), "")
        if not fault:
            try:
                fault = "another program has it" if is_board_busy(boards.board(name)) else ""
            except BoardError as error:
                fault = str(error)
        if not fault:
            note(f"pool {pool}: board {name} is free")
            return name
        refused.append(f"{name} ({fault})")
    raise BoardError(f"no board of pool {pool!r} is free: {'; '.join(refused)}; try again later")


def _exported(record: StudyRecord, output: Path, compiler: Compiler | None, note: Note) -> tuple[DeployedFile, CompiledXmodel]:
    """The trial's files, below `output`, and what a board is to run. Raises ToolchainError where nothing compiles it.

    The compiled file is kept beside the trial's folder under its checksum: a later export, by another compiler say, takes the
    place of the one in the folder, and what ran must be there when its integers differ.
    """
    missing: list[str] = []
    folder = record.export(output, compiler=compiler, note=missing.append)
    manifest = json.loads((folder / "manifest.json").read_text())
    compiled = manifest["compiled"]
    if compiled is None:
        raise ToolchainError(missing[0] if missing else f"trial {record.number} has no file that a board runs")
    note(f"trial {record.number}: {folder}")
    network = next(name for name in manifest["sha256"] if name.endswith("_int.xmodel"))
    xmodel = CompiledXmodel.read(folder / compiled["file"])
    kept = folder.with_name(f"{folder.name}-{xmodel.sha256[:12]}.xmodel")
    xmodel.write(kept)
    return DeployedFile(kept, folder / network, manifest["compiler"], xmodel.sha256, compiled["fingerprint"]), xmodel


def _compared(
    record: StudyRecord,
    board: SshBoard,
    run: BoardRun,
    labels: Labels,
    *,
    graph: Graph,
    file: DeployedFile,
    xmodel: CompiledXmodel,
) -> Deployment:
    measurement = board.measured(run)
    ours = _our_logits(graph, run.images)
    logits = LogitsComparison.of(run.logits, ours, xmodel.outputs[0].fix)
    profile = _with_threads(board.profile, board.settings.threads)
    timing = xmodel.time(profile, runner=program_runner(run.report.runner, profile))
    moment = datetime.fromisoformat(run.measured_at)
    folder = file.network.parent
    return Deployment(
        study=record.study.name,
        trial=record.number,
        candidate=str(record.candidate),
        board=board.name,
        file=file,
        logits=logits,
        measured=_measured(run, labels),
        predicted=Figures(
            accuracy=float((ours.argmax(axis=1) == labels).mean()),
            fps=timing.throughput_fps,
            latency_ms=timing.latency_s * 1e3,
            fps_error=timing.throughput_error or None,
            latency_error=timing.latency_error or None,
        ),
        predicted_by=_predicted_by(run.report.runner, timing.runner, profile, run.report.board.dpu_mhz, board.settings.threads),
        study_accuracy=record.accuracy,
        measured_at=run.measured_at,
        conditions={**measurement.conditions, "integers": str(logits)},
        report=run.report.model_dump(mode="json"),
        record=folder.with_name(f"{folder.name}-{board.name}-{moment:%Y%m%dT%H%M%SZ}.json"),
    )


def _measured(run: BoardRun, labels: Labels) -> Figures:
    report = run.report
    return Figures(
        accuracy=float((run.logits.argmax(axis=1) == labels).mean()),
        fps=report.throughput.fps,
        latency_ms=report.latency.median_ms,
        power_w=None if report.power is None else report.power.busy_w,
        idle_w=None if report.power is None else report.power.idle_w,
    )


def _our_logits(graph: Graph, images: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """What the network gives by our own execution, (N, values)."""
    pieces = [execute(graph, images[start : start + _BATCH]) for start in range(0, len(images), _BATCH)]
    return np.concatenate(pieces).reshape(len(images), -1)


def _with_threads(profile: BoardProfile, threads: int) -> BoardProfile:
    """The profile whose runners feed the DPU with as many threads as the boards file sets; 0: with their own."""
    if threads == 0:
        return profile
    runners = {name: runner.model_copy(update={"threads": threads}) for name, runner in profile.runners.items()}
    return profile.model_copy(update={"runners": runners})


def _predicted_by(program: str, runner: str, profile: BoardProfile, mhz: float | None, threads: int = 0) -> str:
    """The profile and its runner, in words, with what is another there than on the board that tells the clock `mhz`.

    Nothing was measured with our program in C++ before somebody calibrates with it.
    """
    unknown = program == "cpp" and runner != CPP_RUNNER
    doubts = [f"threads = {threads}"] if threads else []
    doubts += ["the time of the C++ program itself was never measured"] if unknown else []
    if mhz is not None and not profile.has_clock(mhz):
        doubts.append(f"for {profile.clock_mhz:g} MHz, and the board's DPU runs at {mhz:g} MHz")
    return f"{profile.name}, {runner} runner" + (f" ({'; '.join(doubts)})" if doubts else "")


def _write(deployment: Deployment) -> None:
    content = json.dumps(deployment.to_json(), indent=1) + "\n"
    try:
        write_atomically(deployment.record, content.encode())
    except OSError as error:
        raise StudyError(f"{deployment.record} cannot be written: {error.strerror or error}; give another -o") from error
