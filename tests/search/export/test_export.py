"""An exported trial: its files, its manifest, its golden images, its runner, and its float network."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _exported import COMPILED, manifest_of

from edgesearch.board_eval import CompiledXmodel, Miscompiled, execute, load_profile, read_xmodel
from edgesearch.board_eval.runner import _run_on_board
from edgesearch.errors import CompileError, StudyError
from edgesearch.objectives import Store, load_data, prepare
from edgesearch.search import Study, load_network
from edgesearch.search.export import _compiled, export_trial


def test_an_exported_folder_holds_what_its_manifest_names(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    names = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()} - {"manifest.json"}
    assert (
        names
        == set(manifest["sha256"])
        == {
            "compiled/cnn_tiny.xmodel",
            "cnn_tiny_int.xmodel",
            "cnn_tiny_int.onnx",
            "cnn_tiny_float.safetensors",
            "golden_pictures.npy",
            "golden_input.npy",
            "golden_output.npy",
            "labels.txt",
            "README.md",
            "run_on_board.py",
            "run_on_board.cpp",
        }
    )
    for name, checksum in manifest["sha256"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == checksum
    assert manifest["board"]["dpu"] == "B4096"
    assert "xdputil query" in manifest["board"]["compare"]
    assert manifest["scores"]["test_accuracy"] is None or 0 <= manifest["scores"]["test_accuracy"] <= 1
    assert manifest["scores"]["conditions"]["throughput_bound"] in ("compute", "memory", "host")


def test_the_manifest_says_what_is_in_the_compiled_file_and_what_is_known_of_it(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    compiled = manifest["compiled"]
    xmodel = CompiledXmodel.read(exported / compiled["file"])
    assert manifest["compiler"] == "edgesearch"
    assert {name: compiled[name] for name in xmodel.facts()} == xmodel.facts()
    assert manifest["sha256"][compiled["file"]] == compiled["sha256"]
    timing = xmodel.time(load_profile("zcu104"))
    assert compiled["predicted"] == timing.figures()
    assert compiled["predicted"]["fps_error"] == pytest.approx(timing.throughput_error, abs=1e-4)
    fps, error = compiled["predicted"]["fps"], compiled["predicted"]["fps_error"]
    low, high = fps / (1 + error), fps / (1 - error)
    expected = f"is {timing.throughput_fps:.1f}, 90 % of measurements between {low:.1f} and {high:.1f}."
    assert expected in (exported / "README.md").read_text()
    assert compiled["predicted"]["fps"] == pytest.approx(manifest["scores"]["fps"], rel=1e-6)  # that of its own code
    assert "golden_input.npy" in compiled["verified"]
    assert "has not yet run one on silicon" in compiled["silicon"]
    assert compiled["confirm"] == "python3 run_on_board.py compiled/cnn_tiny.xmodel"


def test_the_line_of_the_manifest_makes_the_same_file_again(exported: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copy"))
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / manifest["compiled"]["file"]).unlink()
    words = manifest["compile"].split()
    assert words[0] == "edgesearch"
    subprocess.run([sys.executable, "-m", "edgesearch.search", *words[1:]], cwd=copied, check=True, capture_output=True)
    content = (copied / manifest["compiled"]["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest["compiled"]["sha256"]


def test_what_a_studys_code_may_use_is_in_the_line_that_makes_its_file(
    tiny: Study, tiny_file: Path, tiny_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "allowing.toml"
    path.write_text(
        'allow = ["relu6", "save_pairs"]\n' + tiny_file.read_text().replace('name = "tiny"', 'name = "allowing"', 1)
    )
    study = Study.open(path, shutil.copytree(tiny_home, tmp_path / "home"))
    study.optimize(1, workers=0)
    line = manifest_of(study.record(0).export(tmp_path / "deploy"))["compile"]
    assert line == (
        "edgesearch compile cnn_tiny_int.xmodel --fingerprint 0x101000056010407 --allow relu6 --allow save_pairs "
        f"--output {COMPILED}"
    )


def test_the_front_is_compiled_when_a_study_ends_and_exported_from_the_store(tiny: Study, tmp_path: Path) -> None:
    front = tiny.front()
    stages = [tiny.inputs.compiled(record.candidate) for record in front]
    store = Store(tiny.home.store)
    artifacts = [store.get(stage.kind, stage.key) for stage in stages if stage is not None]
    assert len(artifacts) == len(front)
    for record, artifact in zip(front, artifacts, strict=True):
        assert artifact is not None
        manifest = json.loads((record.export(tmp_path) / "manifest.json").read_text())
        assert manifest["compiled"]["sha256"] == artifact.figures["sha256"]


def test_a_study_of_several_threads_is_exported_from_the_store_too(
    tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Study.open(tiny_file, tmp_path, threads=2).optimize(1, workers=0)
    monkeypatch.setattr(_compiled, "compile_xmodel", pytest.fail)
    loaded = Study.load("tiny", tmp_path)
    assert manifest_of(loaded.record(0).export(tmp_path / "deploy"))["compiled"] is not None


@pytest.mark.usefixtures("no_vitis")
def test_with_amds_compiler_the_manifest_has_its_line_and_no_file_is_compiled(tiny: Study, tmp_path: Path) -> None:
    folder = tiny.record(0).export(tmp_path, compiler="vai")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["compiler"] == "vai"
    assert manifest["compiled"] is None
    assert manifest["compile"] == (
        "vai_c_xir --xmodel cnn_tiny_int.xmodel --arch /opt/vitis_ai/compiler/arch/DPUCZDX8G/ZCU104/arch.json "
        "--net_name cnn_tiny --output_dir compiled"
    )
    assert not (folder / "compiled").exists()
    assert (folder / "run_on_board.py").is_file()
    assert f"`{manifest['compile']}`" in (folder / "README.md").read_text()


@pytest.fixture
def no_vitis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PATH without any tool of Vitis AI and any container engine."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


@pytest.mark.usefixtures("no_vitis")
def test_without_amds_compiler_one_line_says_what_is_missing_and_the_command(tiny: Study, tmp_path: Path) -> None:
    said: list[str] = []
    folder = tiny.record(0).export(tmp_path / "deploy", compiler="vai", note=said.append)
    (line,) = said
    assert "\n" not in line
    assert "vai_c_xir is not on PATH" in line
    assert "docker pull xilinx/vitis-ai-pytorch-cpu:latest" in line
    assert line.endswith(f"then, in {folder}: {manifest_of(folder)['compile']}")


@pytest.mark.parametrize("board", ["kv260", "zcu102"])
@pytest.mark.usefixtures("no_vitis")
def test_the_arch_json_is_the_boards(board: str, tiny: Study, tmp_path: Path) -> None:
    settings, store = tiny.settings.with_changes(board=board), Store(tiny.home.store)
    folder = export_trial(tiny.record(0), settings, tiny.inputs.data, store, tmp_path / "deploy", compiler="vai")
    line = manifest_of(folder)["compile"]
    assert f"--arch /opt/vitis_ai/compiler/arch/DPUCZDX8G/{board.upper()}/arch.json " in str(line)


def test_with_amds_compiler_there_its_file_is_exported_and_compared_with_ours(
    tiny: Study, vai_c_xir: Path, tmp_path: Path
) -> None:
    folder = tiny.record(0).export(tmp_path, compiler="vai")
    manifest = json.loads((folder / "manifest.json").read_text())
    compiled = manifest["compiled"]
    xmodel = CompiledXmodel.read(folder / compiled["file"])
    assert (manifest["compiler"], compiled["sha256"]) == ("vai", xmodel.sha256)
    assert compiled["compiler"]["how"] == str(vai_c_xir)
    assert "silicon" not in compiled
    compared = compiled["compared"]
    assert (compared["images"], compared["equal_images"], compared["problem"]) == (8, 8, None)
    assert compared["costs"]["vai"]["instructions"] == len(xmodel.program)
    assert set(compared["costs"]) == {"vai", "edgesearch"}
    assert manifest["compile"].startswith("vai_c_xir --xmodel cnn_tiny_int.xmodel ")


def test_a_layer_left_to_the_cpu_ends_the_export_with_its_name(tiny: Study, vai_c_xir: Path, tmp_path: Path) -> None:
    vai_c_xir.write_text(
        "#!/bin/sh\necho 'xir::Op{name = net__conv, type = conv2d-fix} has been assigned to CPU: [no room].'\nexit 134\n"
    )
    with pytest.raises(CompileError, match=r"cannot compile .* for the DPU: 'net__conv' \(conv2d-fix\): no room"):
        tiny.record(0).export(tmp_path / "deploy", compiler="vai")
    assert list((tmp_path / "deploy").iterdir()) == []


def test_a_study_that_leaves_compiling_to_vitis_ai_has_its_files_in_the_store(
    tiny_file: Path, tiny_home: Path, vai_c_xir: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vitis.toml"
    path.write_text('compiler = "vai"\n' + tiny_file.read_text().replace('name = "tiny"', 'name = "vitis"', 1))
    study = Study.open(path, shutil.copytree(tiny_home, tmp_path / "home"))
    study.optimize(1, workers=0)
    stage = study.inputs.compiled(study.record(0).candidate)
    assert stage is not None
    artifact = Store(study.home.store).get(stage.kind, stage.key)
    assert artifact is not None
    vai_c_xir.write_text("#!/bin/sh\nexit 1\n# sha256 of what made the file is in the key: it is made anew\n")
    said: list[str] = []
    loaded = Study.load("vitis", tmp_path / "home")
    assert manifest_of(study.record(0).export(tmp_path / "one"))["compiled"]["sha256"] == artifact.figures["sha256"]  # type: ignore[index]
    assert manifest_of(loaded.record(0).export(tmp_path / "two", note=said.append))["compiled"] is None
    assert "at its second try too" in said[0]


def test_a_network_that_cannot_be_compiled_leaves_nothing_and_says_what_else_can_be_done(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise CompileError("layer 'conv' has no room")

    monkeypatch.setattr(_compiled, "compile_xmodel", refuse)
    monkeypatch.setattr(Store, "get", _without(Store.get, "compiled"))
    with pytest.raises(CompileError, match="layer 'conv' has no room; --compiler vai exports"):
        tiny.record(0).export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_code_that_computes_something_else_is_a_bug_and_leaves_nothing(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgesearch.board_eval.deployment import _compile

    monkeypatch.setattr(_compile, "execute", lambda graph, images: execute(graph, images) + 1)
    monkeypatch.setattr(Store, "get", _without(Store.get, "compiled"))
    with pytest.raises(Miscompiled, match="8 of 8 images"):
        tiny.record(0).export(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _without(get: Any, kind: str) -> Any:
    """A store that lacks artifacts of this kind."""
    return lambda store, asked, key: None if asked == kind else get(store, asked, key)


def test_the_golden_images_are_calibration_images_as_the_manifest_quantizes_them(exported: Path, tiny: Study) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    entry = manifest["input"]
    images, outputs = np.load(exported / "golden_input.npy"), np.load(exported / "golden_output.npy")
    pixels = load_data(tiny.settings.data).calibration.images[: len(images)].astype(np.float64)
    scaled = np.floor((pixels / 255 - entry["mean"]) / entry["std"] * 2.0 ** entry["fix_position"] + 0.5)
    assert images.dtype == outputs.dtype == np.int8
    assert np.array_equal(images, np.clip(scaled, -128, 127))
    logits = execute(read_xmodel(exported / "cnn_tiny_int.xmodel"), images)
    assert np.array_equal(logits, outputs * 2.0 ** -manifest["output"]["fix_position"])
    assert len(np.unique(outputs)) > 2


def test_the_float_network_is_rebuilt_from_its_files(exported: Path, tiny: Study) -> None:
    data = load_data(tiny.settings.data)
    images = prepare(data.validation.images[:16], 8, data.normalisation).transpose(0, 3, 1, 2)
    batch = torch.from_numpy(np.ascontiguousarray(images))
    with torch.inference_mode():
        expected = tiny.record(0).network()(batch)
        assert torch.equal(load_network(exported)(batch), expected)
        assert torch.equal(load_network(str(exported / "manifest.json"))(batch), expected)


def test_files_that_do_not_belong_together_are_refused(exported: Path, tiny: Study, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(exported, tmp_path / "copy"))
    (copied / "cnn_tiny_float.safetensors").write_bytes(b"something else")
    with pytest.raises(StudyError, match="another SHA-256"):
        load_network(copied)
    with pytest.raises(StudyError, match=r"manifest\.json cannot be read"):
        load_network(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(StudyError, match="not the manifest of an exported trial"):
        load_network(tmp_path)
    with pytest.raises(StudyError, match="trained in integers from scratch"):
        load_network(tiny.record(1).export(tmp_path))


def test_a_candidate_that_is_not_deployable_has_no_xmodel(tiny: Study, tmp_path: Path) -> None:
    folder = tiny.record(2).export(tmp_path)
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "cnn_tiny_float.safetensors"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [manifest[entry] for entry in ("compiler", "compiled", "compile", "golden")] == [None] * 4


def test_an_export_that_cannot_be_written_leaves_nothing(tiny: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot be written"):
        tiny.record(0).export(tmp_path / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_an_earlier_export_stays_where_a_new_one_is_stopped_before_it_has_its_name(
    tiny: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny.record(2).export(tmp_path)
    rename = os.rename

    def stopped(source: Path, target: Path) -> None:
        if target == folder and not source.name.endswith("-old"):
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", stopped)
    with pytest.raises(KeyboardInterrupt):
        tiny.record(2).export(tmp_path)
    assert list(tmp_path.iterdir()) == [folder]
    assert (folder / "manifest.json").is_file()


def test_an_export_replaces_an_earlier_one_of_the_trial_and_nothing_else(tiny: Study, tmp_path: Path) -> None:
    folder = tiny.record(2).export(tmp_path)
    (folder / "cnn_tiny_float.safetensors").unlink()  # half an export is one
    assert tiny.record(2).export(tmp_path) == folder
    assert (folder / "cnn_tiny_float.safetensors").is_file()
    (folder / "compiled").mkdir()
    (folder / "compiled" / "by_hand.xmodel").write_text("mine")
    with pytest.raises(StudyError, match=r"files that no export wrote \(compiled/by_hand.xmodel\)"):
        tiny.record(2).export(tmp_path)
    (folder / "compiled" / "by_hand.xmodel").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"study": "other"}))
    with pytest.raises(StudyError, match="is of the study 'other'"):
        tiny.record(2).export(tmp_path)
    (folder / "manifest.json").write_text(json.dumps(manifest | {"artifacts": {"quantized": "0" * 64}}))
    with pytest.raises(StudyError, match="has another network, of a study of the same name"):
        tiny.record(2).export(tmp_path)
    (folder / "manifest.json").unlink()
    with pytest.raises(StudyError, match="is no export"):
        tiny.record(2).export(tmp_path)
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["cnn_tiny_float.safetensors"]
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / folder.name).symlink_to(folder)
    with pytest.raises(StudyError, match="is a link"):
        tiny.record(2).export(tmp_path / "links")
    with pytest.raises(StudyError, match=r"is no path; .* is longer than 255 bytes"):
        tiny.record(2).export(tmp_path / ("long" * 80))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "links", folder]  # nothing is left beside it


@pytest.mark.parametrize("place", _run_on_board.READ_OF_MANIFEST)
def test_a_manifest_without_what_the_runner_reads_is_refused_by_it(exported: Path, place: str, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(exported, copied)
    _run_on_board.read_export(str(copied))
    manifest = json.loads((copied / "manifest.json").read_text())
    *path, last = place.split(".")
    part = manifest
    for name in path:
        part = part[name]
    del part[last]
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(_run_on_board.Refused, match=rf"^{copied} is not .* \(its manifest has no `{place}`\); give it"):
        _run_on_board.read_export(str(copied))
