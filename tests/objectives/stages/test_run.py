"""Running stages: what is kept, what is refused, what fails once and for all, and who makes what two ask for."""

from __future__ import annotations

import dataclasses
import multiprocessing
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgesearch.board_eval.graph import Linear
from edgesearch.errors import (
    DataError,
    DeviceError,
    NetworkRefused,
    PluginError,
    SpaceError,
    StageFailed,
    StoreError,
    TrainingError,
)
from edgesearch.objectives import DataSettings, Pipeline, Store, plan, run_stage
from edgesearch.objectives.pruning import _iterative
from edgesearch.objectives.stages import stage_specs
from edgesearch.objectives.stages.kinds import _pruned
from edgesearch.objectives.stages.kinds._measured import INTEGER_PASSES
from edgesearch.objectives.stages.kinds._quantized import load_graph
from edgesearch.objectives.training import Training, _shown, train
from edgesearch.spaces import Candidate, Pruning, Student, complete, weights_fingerprint

from ._chains import DATA, QUICK, conditions, run, stages

JSON = DATA.model_dump(mode="json")


def test_a_whole_chain_runs_once_and_says_what_made_it(tmp_path: Path) -> None:
    chain = stages({"pruning": {"method": "iterative", "ratio": 0.3}, "distillation": {"kind": "self"}}, last="tested")
    made = run(chain, tmp_path)
    assert set(made) == {"student", "logits", "sensitivity", "pruned", "quantized", "tested"}
    by = made["student"].made_by
    assert by["device"] == "cpu"
    assert by["threads"] == torch.get_num_threads()
    assert by["versions"]["torch"] == torch.__version__
    changed = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    run(chain, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == changed


@pytest.mark.parametrize("method", ["one_step", "iterative"])
def test_pruning_to_a_share_of_the_dpus_time(tmp_path: Path, method: str) -> None:
    pruning = {"method": method, "ratio": 0.3, "target": "fps", "steps": 2}
    student = {"architecture": "resnet8", "width": 2.0, "input_size": 8}
    made = run(stages({"student": student, "pruning": pruning}), tmp_path)
    assert set(made) == {"student", "sensitivity", "pruned", "quantized", "measured"}
    figures = made["pruned"].figures
    assert figures["reached_ratio"] == 1 - figures["seconds_after"] / figures["seconds_before"] >= 0.3
    whole = run(stages({"student": student}), tmp_path)
    assert made["measured"].figures["latency_ms"] < whole["measured"].figures["latency_ms"]


@pytest.mark.parametrize("pruning", [{"method": "unstructured", "ratio": 0.6}, {"method": "n_m", "pattern": "1:4"}])
@pytest.mark.parametrize("algorithm", ["best", "vitis"])
def test_zeros_stay_from_pruning_to_the_integers(tmp_path: Path, pruning: dict[str, Any], algorithm: str) -> None:
    made = run(stages({"pruning": pruning, "quantization": {"algorithm": algorithm}}, last="tested"), tmp_path)
    assert set(made) == {"student", "pruned", "quantized", "tested"}
    figures, wanted = made["pruned"].figures, pruning.get("ratio", 0.75)
    assert figures["macs_after"] == figures["macs_before"]
    assert figures["zero_weights"] == figures["reached_ratio"] == pytest.approx(wanted, abs=1e-3)
    before, after = made["student"].tensors("weights"), made["pruned"].tensors("weights")
    assert {name: tensor.shape for name, tensor in after.items()} == {name: tensor.shape for name, tensor in before.items()}
    layers = [node for node in load_graph(made["quantized"]) if isinstance(node, Linear)]
    assert sum(int((node.weight == 0).sum()) for node in layers) >= int(wanted * sum(node.weight.size for node in layers))
    for node in layers:
        zero = after[f"{node.name}.weight"].numpy() == 0
        assert (node.weight[zero] == 0).all()
        assert (node.weight[~zero] != 0).any()


@pytest.mark.parametrize(
    ("name", "words"), [("broken", "failed: ValueError: no idea"), ("nothing", "gave a NoneType; expected an .*Pruned")]
)
def test_a_pruner_of_the_users_own_that_fails_is_one_sentence(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "pruners_that_fail.py").write_text(
        "def broken(task):\n    raise ValueError('no idea')\ndef nothing(task):\n    return None\n"
    )
    chain = stages({"pruning": {"method": f"pruners_that_fail:{name}", "ratio": 0.5}}, last="pruned")
    with pytest.raises(PluginError, match=f"pruner 'pruners_that_fail:{name}' {words}"):
        run(chain, tmp_path / "store", folder=tmp_path)


def test_rounds_of_pruning_go_on_where_they_were_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_iterative, "_FALLEN", -np.inf)  # this network is hardly trained, and still has rounds to repair
    pruning = {"method": "iterative", "ratio": 0.5, "steps": 3}
    chain = stages({"pruning": pruning}, finetune={"epochs": 6}, last="pruned")
    whole = run(chain, tmp_path / "whole")["pruned"]
    done: list[int] = []
    kills: list[str] = []

    def cut_off(*arguments: Any, on_epoch: Callable[[int, float], None], **options: Any) -> Training:
        def count(epoch: int, loss: float) -> None:
            on_epoch(epoch, loss)
            done.append(epoch)

        training = train(*arguments, on_epoch=count, checkpoint_seconds=0.0, **options)
        if len(done) == 4 and not kills:  # both epochs of both rounds before the last
            kills.append("now")
            raise RuntimeError("killed")
        return training

    monkeypatch.setattr(_pruned, "train", cut_off)
    with pytest.raises(RuntimeError, match="killed"):
        run(chain, tmp_path / "cut")
    assert done == [1, 2, 1, 2]
    made = run(chain, tmp_path / "cut")["pruned"]
    assert done == [1, 2, 1, 2]  # no epoch of a round was trained again
    for name, tensor in whole.tensors("weights").items():
        assert torch.equal(tensor, made.tensors("weights")[name])
    assert not list((tmp_path / "cut" / "checkpoints").glob("*"))


def test_batches_that_were_halved_between_rounds_are_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_iterative, "_FALLEN", -np.inf)
    pieces = iter([4, 2])

    def halved(*arguments: Any, **options: Any) -> Training:
        return dataclasses.replace(train(*arguments, **options), pieces=next(pieces))

    monkeypatch.setattr(_pruned, "train", halved)
    pruning = {"method": "iterative", "ratio": 0.5, "steps": 3}
    made = run(stages({"pruning": pruning}, finetune={"epochs": 3}, last="pruned"), tmp_path)["pruned"]
    assert made.figures["pieces"] == 4  # the last training's is 1


def test_the_seconds_of_a_stage_that_was_interrupted_are_those_of_all_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, store, data = stages({}, last="student")[-1], Store(tmp_path), DATA.model_dump(mode="json")
    checkpoints = store.checkpoints(stage.key)

    def killed(*_: Any, **__: Any) -> None:
        epoch, tensors, meta = latest()
        assert meta["spent"] > 0
        own = {name: tensor.clone() for name, tensor in tensors.items()}
        checkpoints.save(epoch, own, meta | {"spent": meta["spent"] + 1000.0})  # of a slow machine
        raise KeyboardInterrupt

    def latest() -> tuple[int, dict[str, torch.Tensor], dict[str, Any]]:
        found = checkpoints.latest()
        assert found is not None
        return found

    monkeypatch.setattr("edgesearch.objectives.training._checkpoints.Saver._since", lambda saver: 60.0)
    with monkeypatch.context() as patch:
        patch.setattr("edgesearch.objectives.training._train._Run.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run_stage(stage, store, data_settings=data, device="cpu")
    made = run_stage(stage, store, data_settings=data, device="cpu")
    assert 1000 < made.seconds < 1500
    assert "earlier_seconds" not in made.figures


def test_a_pruned_stage_that_comes_to_other_widths_elsewhere_is_fine_tuned_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    student = {"architecture": "cnn_tiny", "input_size": 8}
    chain = stages({"student": student, "pruning": {"method": "one_step", "ratio": 0.3}}, last="pruned", finetune={"epochs": 3})
    straight = run(chain, tmp_path / "straight")["pruned"]
    prune = _pruned._prune

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def on_another_processor(context: Any, *arguments: Any) -> Any:
        pruning = context.settings.pruning.model_copy(update={"ratio": 0.6})
        other = dataclasses.replace(context, settings=context.settings.model_copy(update={"pruning": pruning}))
        return prune(other, *arguments)

    store = Store(tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(_pruned, "_prune", on_another_processor)
        patch.setattr("edgesearch.objectives.stages._context.train", partial(train, checkpoint_seconds=0.0))
        patch.setattr("edgesearch.objectives.training._train._Run.finish", killed)
        for stage in chain[:-1]:
            shutil.copytree(tmp_path / "straight" / "artifacts" / stage.kind, tmp_path / "cut" / "artifacts" / stage.kind)
        with pytest.raises(KeyboardInterrupt):
            run_stage(chain[-1], store, data_settings=JSON, device="cpu")
    kept = store.checkpoints(chain[-1].key).latest()
    assert kept is not None
    assert kept[0] == 3
    capsys.readouterr()
    made = run_stage(chain[-1], store, data_settings=JSON, device="cpu")
    assert "the checkpoint of epoch 3 is of another network" in capsys.readouterr().out
    assert made.figures["epochs_done"] == 3
    for name, tensor in straight.tensors("weights").items():
        assert torch.equal(tensor, made.tensors("weights")[name])


@pytest.mark.parametrize(("guessing", "chance"), [(0.0, 0.1), (0.7, 0.7)])
def test_a_pruner_is_told_what_guessing_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guessing: float, chance: float
) -> None:
    pipeline, told = Pipeline.model_validate(QUICK), list[float]()
    candidate = Candidate(student=Student(architecture="mlp", input_size=8), pruning=Pruning(method="iterative", ratio=0.3))
    last = plan(candidate, pipeline, dataclasses.replace(conditions(pipeline), guessing=guessing), last="pruned")

    def prune_iterative(*_: Any, chance: float, **__: Any) -> None:
        told.append(chance)
        raise TrainingError("enough")

    monkeypatch.setattr("edgesearch.objectives.pruning._pruner.prune_iterative", prune_iterative)
    with pytest.raises(TrainingError, match="enough"):
        run(list(last.walk()), tmp_path)
    assert told == [chance]


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="input student/"):
        run_stage(stages({})[1], Store(tmp_path), data_settings=JSON)


def test_other_images_are_refused_where_the_stage_reads_them(tmp_path: Path) -> None:
    chain = stages({})
    fewer = DataSettings(**{**DATA.model_dump(), "train_images": 150}).model_dump(mode="json")
    with pytest.raises(DataError, match="changed while the study ran"):
        run_stage(chain[0], Store(tmp_path), data_settings=fewer)


def test_weights_that_changed_are_refused(tmp_path: Path) -> None:
    made = run(stages({}), tmp_path / "first")
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes((made["student"].path / "weights.safetensors").read_bytes())
    student = {"architecture": "mlp", "input_size": 8, "weights": str(weights)}
    chain = stages({"student": student | {"weights_sha256": weights_fingerprint(str(weights))}})
    run(chain[:1], tmp_path / "second")
    weights.write_bytes((made["quantized"].path / "weights.safetensors").read_bytes())
    with pytest.raises(SpaceError, match="changed while the study ran"):
        run(chain[:1], tmp_path / "third")


def test_a_failure_of_the_numbers_is_not_repeated_until_it_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = stages({}, train={"epochs": 1, "lr": 1e30, "optimizer": "sgd"})[0]
    store = Store(tmp_path)
    with pytest.raises(TrainingError, match="not a finite number"):
        run_stage(stage, store, data_settings=JSON, device="cpu")

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("it ran again")

    monkeypatch.setattr("edgesearch.objectives.stages._context.train", never)
    with pytest.raises(StageFailed, match=r"not a finite number.*--retry-failed"):
        run_stage(stage, store, data_settings=JSON, device="cpu")
    store.forget_failure(stage.kind, stage.key)
    with pytest.raises(AssertionError, match="again"):
        run_stage(stage, store, data_settings=JSON, device="cpu")


@pytest.mark.parametrize(("raised", "is_kept"), [("ValueError('odd')", True), ("FileNotFoundError('table.csv')", False)])
def test_a_network_whose_own_code_fails_is_not_tried_again_unless_a_file_is_missing(
    tmp_path: Path, raised: str, is_kept: bool
) -> None:
    (tmp_path / "failing_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, num_classes):\n        super().__init__()\n"
        f"        self.head = nn.Linear(64, num_classes)\n    def forward(self, x):\n        if self.training: raise {raised}\n"
        "        return self.head(x.flatten(1))\n"
    )
    student = complete(Student(architecture="failing_nets:Net", input_size=8), folder=tmp_path)
    stage, store = stages({"student": student.model_dump(mode="json")})[0], Store(tmp_path / "store")
    with pytest.raises(NetworkRefused, match=r"fails in training, on two images"):
        run_stage(stage, store, data_settings=JSON, device="cpu", folder=tmp_path)
    with pytest.raises(StageFailed if is_kept else NetworkRefused, match="fails in training"):
        run_stage(stage, store, data_settings=JSON, device="cpu", folder=tmp_path)


@pytest.mark.parametrize(("raised", "is_kept"), [("ValueError('odd')", True), ("MemoryError('no room')", False)])
def test_own_code_that_fails_on_a_batch_alone_is_not_tried_again_either(tmp_path: Path, raised: str, is_kept: bool) -> None:
    (tmp_path / "moody_nets.py").write_text(
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self, num_classes):\n        super().__init__()\n"
        "        self.head = nn.Linear(64, num_classes)\n    def forward(self, x):\n"
        f"        if self.training and len(x) > 2: raise {raised}\n        return self.head(x.flatten(1))\n"
    )
    student = complete(Student(architecture="moody_nets:Net", input_size=8), folder=tmp_path)
    stage, store = stages({"student": student.model_dump(mode="json")})[0], Store(tmp_path / "store")
    for kind in (Exception, StageFailed if is_kept else Exception):
        with pytest.raises(kind, match=r"odd|no room|memory"):
            run_stage(stage, store, data_settings=JSON, device="cpu", folder=tmp_path)
    assert (store.failure(stage.kind, stage.key) is not None) == is_kept


def test_a_failure_of_the_machine_may_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any, **__: Any) -> Any:
        raise MemoryError

    chain, store = stages({}), Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("edgesearch.objectives.training._train._Run.one_epoch", no_memory)
        with pytest.raises(TrainingError, match="out of memory"):
            run_stage(chain[0], store, data_settings=JSON, device="cpu")
    assert store.failure("student", chain[0].key) is None
    assert run_stage(chain[0], store, data_settings=JSON, device="cpu").figures["epochs_done"] == 2


def test_a_device_that_fails_for_a_time_is_no_failure_of_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any, **__: Any) -> Any:
        raise DeviceError("device 'cuda' cannot be used here")

    chain, store = stages({}), Store(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("edgesearch.objectives.stages._context.train", lost)
        with pytest.raises(DeviceError, match="cannot be used here"):
            run_stage(chain[0], store, data_settings=JSON, device="cpu")
    assert store.failure("student", chain[0].key) is None
    assert run_stage(chain[0], store, data_settings=JSON, device="cpu").figures["epochs_done"] == 2


def test_a_lease_that_cannot_be_written_is_the_stores_fault(tmp_path: Path) -> None:
    stage, store = stages({})[0], Store(tmp_path)
    (tmp_path / "leases").write_text("a file")
    with pytest.raises(StoreError, match=r"the lease .* could not be written"):
        run_stage(stage, store, data_settings=JSON, device="cpu")


def test_a_validation_that_memory_does_not_suffice_for_goes_on_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, chain = _shown._tried, stages({})

    def narrow(answer: Callable[[int, int], Tensor], start: int, end: int) -> Tensor | None:
        return None if end - start > 7 else real(answer, start, end)

    whole = run_stage(chain[0], Store(tmp_path / "whole"), data_settings=JSON, device="cpu").figures["accuracy"]
    monkeypatch.setattr(_shown, "_tried", narrow)
    capsys.readouterr()
    assert run_stage(chain[0], Store(tmp_path / "halves"), data_settings=JSON, device="cpu").figures["accuracy"] == whole
    assert "out of memory while predicting" in capsys.readouterr().out


def test_a_failure_known_from_another_version_is_tried_again(tmp_path: Path) -> None:
    stage, store = stages({})[0], Store(tmp_path)
    store.record_failure(stage.kind, stage.key, message="bad luck", made_by={"versions": {"torch": "0.1"}})
    assert run_stage(stage, store, data_settings=JSON, device="cpu").figures["epochs_done"] == 2


def _train(folder: str, results: Any) -> None:
    started = time.time()
    stage = stages({}, train={"epochs": 30})[0]
    artifact = run_stage(stage, Store(Path(folder)), data_settings=JSON, device="cpu")
    results.put((started, artifact.path.stat().st_mtime_ns, artifact.figures["seconds"]))


@pytest.mark.slow
def test_two_studies_that_want_one_stage_make_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [context.Process(target=_train, args=(str(tmp_path), results)) for _ in range(2)]
    for process in processes:
        process.start()
    ended = [results.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
    assert ended[0][1:] == ended[1][1:]
    assert list((tmp_path / "leases").iterdir()) == []


def test_results_depend_on_the_seed_and_the_key_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    first = run(stages({})[:1], tmp_path / "a")["student"].tensors("weights")
    torch.manual_seed(2)
    torch.rand(100)
    second = run(stages({})[:1], tmp_path / "b")["student"].tensors("weights")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_cost_is_known_of_every_kind() -> None:
    from edgesearch.objectives import load_data

    data = load_data(DATA)
    chain = stages({"pruning": {"method": "one_step", "ratio": 0.3}, "quantization": {"method": "qat"}}, last="tested")
    images = {}
    for stage in chain:
        spec = stage_specs().find(stage.kind)
        images[stage.kind] = spec.images(spec.settings_of(stage), data)
    assert images["student"] == 3 * 2 * 200
    assert images["pruned"] == 3 * 200 + 2 * (50 + 50)  # fine-tuning, and two draws scored and recalibrated
    assert images["quantized"] > 3 * 200
    assert images["tested"] == INTEGER_PASSES * 50
