"""The staged family: its names, what counts as one network, and its presets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from edgesearch.board_eval import lower
from edgesearch.errors import SpaceError
from edgesearch.spaces import PRESETS, Candidate, NetworkStage, PooledNorm, Staged, Student, build, parse_candidate

STAGES = st.builds(
    NetworkStage,
    depth=st.integers(1, 4),
    width=st.sampled_from([16, 24, 48, 128]),
    block=st.sampled_from(["plain", "residual", "bottleneck", "inverted", "fire"]),
    expansion=st.integers(1, 6),
    kernel=st.sampled_from([3, 5]),
    down=st.sampled_from(["none", "stride", "pool", "pool_norm"]),
)
FAMILY = st.builds(
    Staged,
    stem=st.sampled_from(["3x3", "3x3/2", "4x4/4", "2x2"]),
    stem_width=st.sampled_from([None, 16, 40]),
    stages=st.lists(STAGES, min_size=2, max_size=4).map(tuple),
    pooling=st.sampled_from(["average", "max"]),
    head=st.sampled_from([0, 64]),
)
SIZES = st.sampled_from([4, 7, 8, 28, 32])


def student(network: Staged | str, size: int = 32, **more: Any) -> Student:
    if isinstance(network, str):
        return Student(architecture=network, input_size=size, **more)
    return Student(architecture="staged", staged=network, input_size=size, **more)


def key(network: Staged | str, size: int = 32, **more: Any) -> str:
    return Candidate(student=student(network, size, **more)).key


def made(student: Student) -> nn.Module:
    return build(student, channels=3, classes=10)


@given(FAMILY, SIZES)
def test_a_name_says_all_of_its_network(network: Staged, size: int) -> None:
    canonical = network.canonical(size)
    assert Staged.parse(str(canonical)).canonical(size) == canonical
    assert key(str(network), size) == key(network, size) == key(canonical, size)


@given(FAMILY, SIZES)
def test_the_canonical_form_is_stable_and_another_network_has_another_key(network: Staged, size: int) -> None:
    canonical = network.canonical(size)
    assert canonical.canonical(size) == canonical
    wider = canonical.stages[0].model_copy(update={"width": canonical.stages[0].width + 16})
    assert key(canonical.model_copy(update={"stages": (wider, *canonical.stages[1:])}), size) != key(network, size)
    whole = student(network, size).canonical()
    assert whole.canonical() == whole
    assert Student.model_validate(whole.model_dump(mode="json")) == whole


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"expansion": 6, "kernel": 5}, {}),
        ({"down": "pool", "block": "fire"}, {"down": "pool", "block": "inverted", "expansion": 2}),
        ({"down": "pool_norm", "block": "fire"}, {"down": "pool_norm", "block": "plain"}),
    ],
)
def test_settings_without_effect_make_no_other_network(one: dict[str, Any], other: dict[str, Any]) -> None:
    keys = {
        key(Staged(stages=(NetworkStage(width=16), NetworkStage.model_validate({"width": 32, **stage}))))
        for stage in (one, other)
    }
    assert len(keys) == 1


def test_an_image_of_one_pixel_is_not_halved() -> None:
    deep, shallow = ("staged 16/4 r1x16/2 r1x32/2 r1x64" + end for end in ("/2 max", ""))
    assert key(deep, 8) == key(shallow, 8)
    assert key(deep, 32) != key(shallow, 32)
    model = made(student("staged 16/4 c1x16p c2x32p max", 4)).eval()
    assert model(torch.zeros(1, 3, 4, 4)).shape == (1, 10)


@pytest.mark.parametrize(
    ("name", "parameters"),
    # MLPerf Tiny's ResNet-8; 56 layers in He et al. 2015, table 6.
    [("resnet8", 78_666), ("resnet56", 850_000)],
)
def test_presets_have_about_the_published_sizes(name: str, parameters: int) -> None:
    found = sum(p.numel() for p in made(student(name)).parameters())
    assert found == pytest.approx(parameters, rel=0.02)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_a_preset_is_a_name_for_its_settings(name: str) -> None:
    assert key(name) == key(PRESETS[name]) == key(str(PRESETS[name]))
    assert str(student(name, 32).canonical().name) == name
    assert key(name, width=0.5) != key(name)
    assert student(name, width=0.5).canonical().name == f"{name} x0.5"
    assert student(name, head=64).canonical().name == f"{name} h64"
    assert student(name, 8, width=2.0).canonical().name == f"{name} x2"  # where some of its images are one pixel
    model = made(student(name, 32, width=0.5)).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_staged_form_of_resnet20_is_resnet20() -> None:
    written = "staged 16 r3x16 r3x32/2 r3x64/2"
    assert key(written) == key("resnet20")
    assert key("staged 24 r3x24 r3x48/2 r3x96/2") == key("resnet20", width=1.5)
    theirs = student(written, weights="a.npz").canonical()  # the tensors of a file have names
    assert theirs.architecture == "staged"
    counts = [sum(p.numel() for p in made(s).parameters()) for s in (theirs, student("resnet20"))]
    assert counts[0] == counts[1]


def test_the_first_block_of_a_pooled_stage_is_a_convolution_with_its_pool() -> None:
    model = made(student("staged 16 r2x32p r1x32"))
    first = model.get_submodule("stages.0.0")
    assert [type(layer).__name__ for layer in first.children()] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert type(model.get_submodule("stages.0.1")) is type(model.get_submodule("stages.1.0"))


def test_batch_norm_may_go_by_what_the_pool_passes_on() -> None:
    plain, pooled = made(student("staged 16 c2x32p c1x32p")), made(student("staged 16 c2x32pn c1x32pn"))
    assert [name for name, module in pooled.named_modules() if isinstance(module, PooledNorm)] == [
        "stages.0.0.1",
        "stages.1.0.1",
    ]
    assert plain.state_dict().keys() == pooled.state_dict().keys()
    graphs = [lower(model, (3, 32, 32)) for model in (plain, pooled)]
    assert len({str([(type(node), node.name, node.shape) for node in graph]) for graph in graphs}) == 1
    pooled.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(pooled.eval()(images), plain.eval()(images))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"architecture": "staged"}, ["needs a table staged"]),
        ({"architecture": "resnet8", "staged": {"stages": [{"width": 16}] * 2}}, ["belongs to", "resnet8"]),
        ({"architecture": "staged", "staged": {"stages": [{"width": 16}]}}, ["student.staged.stages", "1 given", "2 to 4"]),
        ({"architecture": "staged", "staged": {"stages": [{"width": 2}] * 2}}, ["stages.0.width = 2", "4"]),
        ({"architecture": "staged", "staged": {"stages": [{"width": 16, "block": "dense"}] * 2}}, ["'dense'", "'fire'"]),
        ({"architecture": "staged", "staged": {"stages": [{"width": 17, "block": "fire"}] * 2}}, ["width = 17", "even"]),
        ({"architecture": "staged", "staged": {"stages": [{"width": 16}] * 2, "stem": "7x7"}}, ["stem = '7x7'", "4x4/4"]),
        ({"architecture": "staged r3x16"}, ["'staged r3x16' has no stem"]),
        ({"architecture": "staged 16 r3x16 z3x16"}, ["'z3x16'", "r3x32/2"]),
        ({"architecture": "staged 16 r3x16 h64 r3x16"}, ["'r3x16'", "not understood"]),
        ({"architecture": "staged 16 r3x16 r3x16e4"}, ["'r3x16e4'", "inverted"]),
        ({"architecture": "staged 16 r3x16 i1x16e4k7"}, ["kernel = 7", "3 or 5"]),
        ({"architecture": "staged 16 r3x16 r99x16"}, ["depth = 99", "64"]),
        ({"architecture": "staged 16 r3x16"}, ["1 given", "2 to 4"]),
        ({"architecture": "resnet19"}, ["resnet19", "resnet20", "staged 16"]),
    ],
)
def test_errors_quote_what_is_wrong(table: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_candidate({"student": table}, "file.toml")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
