"""Single weights at zero: as many as asked for, those worth least, and they stay there while the network is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from edgesearch.errors import SpaceError
from edgesearch.objectives.data import DataSettings, load_data
from edgesearch.objectives.pruning import Pruned, prune_n_m, prune_unstructured, resize_to, settle, zero_share
from edgesearch.objectives.training import Recipe, train
from edgesearch.spaces import Student, build

SHAPE = (3, 8, 8)
IMAGES = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 14, 1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(14, 5),
    ).eval()


def shows(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(IMAGES).abs().mean())


def unstructured(model: nn.Module, ratio: float) -> Pruned:
    return prune_unstructured(model, SHAPE, ratio=ratio, score=shows, seed=0)


def zeros(module: nn.Module) -> Tensor:
    assert isinstance(module.weight, Tensor)
    return module.weight == 0


@settings(deadline=None, max_examples=20)
@given(st.floats(0, 0.95))
def test_as_many_zeros_as_asked_for_and_the_shape_stays(ratio: float) -> None:
    model = network()
    state = copy.deepcopy(model.state_dict())
    pruned = unstructured(model, ratio)
    sparse = [pruned.model[place] for place in (0, 4, 8)]  # type: ignore[index]
    weights = sum(module.weight.numel() for module in sparse)
    assert sum(int(zeros(module).sum()) for module in sparse) == round(ratio * weights)
    assert not zeros(pruned.model[3]).any()  # type: ignore[index]
    assert pruned.macs_after == pruned.macs_before
    assert pruned.reached_ratio == zero_share(pruned.model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_the_weights_worth_least_go() -> None:
    """A small weight on a loud input stays, a large one on a silent input goes: it moves the output less."""
    model = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, 0.5]).view(1, 2, 1, 1))
    images = torch.randn(32, 2, 4, 4) * torch.tensor([0.01, 1.0]).view(1, 2, 1, 1)
    pruned = prune_unstructured(model, (2, 4, 4), ratio=0.5, score=lambda m: float(m(images).detach().sum()), seed=0)
    assert zeros(pruned.model[0]).flatten().tolist() == [True, False]  # type: ignore[index]
    blind = prune_unstructured(model, (2, 4, 4), ratio=0.5, score=lambda m: 0.0, seed=0)
    assert zeros(blind.model[0]).flatten().tolist() == [False, True]  # type: ignore[index]


def test_what_is_kept_does_not_depend_on_how_many_images_are_shown_at_a_time() -> None:
    def one_by_one(model: nn.Module) -> float:
        with torch.no_grad():
            return float(torch.stack([model(image[None]) for image in IMAGES]).abs().mean())

    def a_single_one(model: nn.Module) -> float:
        with torch.no_grad():
            return float(model(IMAGES[:1]).abs().mean())

    whole, parts, same = (
        prune_unstructured(network(), SHAPE, ratio=0.5, score=score, seed=0).model
        for score in (shows, one_by_one, a_single_one)
    )
    for place in (0, 4, 8):
        assert torch.equal(zeros(whole[place]), zeros(parts[place]))  # type: ignore[index]
    assert 0.3 < float(zeros(same[8]).float().mean()) < 0.7  # type: ignore[index]  # one image tells no variance: by size alone


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 8), (1, 2)])
def test_n_of_every_m_inputs_stay(pattern: tuple[int, int]) -> None:
    kept, of = pattern
    pruned = prune_n_m(network(), SHAPE, pattern=pattern, score=shows, seed=0)
    for place in (0, 4, 8):
        zero = zeros(pruned.model[place])  # type: ignore[index]
        whole = zero.shape[1] // of * of
        assert (zero[:, :whole].unflatten(1, (-1, of)).sum(2) == of - kept).all()
        assert not zero[:, whole:].any()
    assert not zeros(pruned.model[3]).any()  # type: ignore[index]
    assert pruned.asked_ratio == 1 - kept / of


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_zeros_stay_while_the_network_is_trained(optimizer: str) -> None:
    data = load_data(DataSettings(train_images=64, validation_images=20, calibration_images=16, test_images=20))
    model = build(Student(architecture="cnn_tiny", input_size=8), channels=1, classes=10).eval()
    sparse = prune_unstructured(model, (1, 8, 8), ratio=0.5, score=lambda m: 0.0, seed=0).model
    names = [name for name, module in sparse.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    before = {name: zeros(sparse.get_submodule(name)) for name in names}
    recipe = Recipe(epochs=2, lr=0.01, optimizer=optimizer, average_epochs=0.5)  # type: ignore[arg-type]
    train(sparse, data, recipe=recipe, input_size=8, seed=0, device="cpu")
    settle(sparse)
    for name in names:
        assert torch.equal(zeros(sparse.get_submodule(name)), before[name])
    assert set(sparse.state_dict()) == set(model.state_dict())
    again = resize_to(build(Student(architecture="cnn_tiny", input_size=8), channels=1, classes=10), sparse.state_dict())
    with torch.no_grad():
        assert torch.equal(again.eval()(torch.ones(1, 1, 8, 8)), sparse.eval()(torch.ones(1, 1, 8, 8)))


def test_what_cannot_be_asked_for() -> None:
    with pytest.raises(SpaceError, match=r"the pruning ratio is 0\.99"):
        unstructured(network(), 0.99)
    with pytest.raises(SpaceError, match="the pattern is 4:4; expected N:M"):
        prune_n_m(network(), SHAPE, pattern=(4, 4), score=shows, seed=0)


class Tied(nn.Module):
    """Two convolutions of one weight; `apart`: a third layer has it, too, which is none that loses single weights."""

    def __init__(self, *, apart: bool = False) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(16, 5)
        self.one, self.other = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.other.weight = self.one.weight
        if apart:
            self.third = nn.ConvTranspose2d(16, 16, 3, padding=1)
            self.third.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.other(self.one(self.stem(x).relu()).relu()).relu()
        x = self.third(x).relu() if hasattr(self, "third") else x
        answer: Tensor = self.head(x.mean((2, 3)))
        return answer


@pytest.mark.parametrize("pattern", [None, (2, 4)])
def test_a_weight_that_layers_share_has_one_mask_and_counts_once(pattern: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    model = Tied().eval()
    pruned = unstructured(model, 0.5) if pattern is None else prune_n_m(model, SHAPE, pattern=pattern, score=shows, seed=0)
    with torch.no_grad():
        before = pruned.model(IMAGES)
        share = zero_share(pruned.model)
        plain = settle(pruned.model)
        assert torch.equal(plain(IMAGES), before)
    assert isinstance(plain, Tied)
    assert plain.one.weight is plain.other.weight
    assert zero_share(plain) == share == pruned.zero_share
    if pattern is None:
        assert share == pytest.approx(0.5, abs=1e-3)
    else:
        assert float(zeros(plain.one).float().mean()) == 0.5


def test_a_weight_that_another_kind_of_layer_has_too_stays_whole() -> None:
    torch.manual_seed(0)
    plain = settle(unstructured(Tied(apart=True).eval(), 0.5).model)
    assert isinstance(plain, Tied)
    assert not zeros(plain.one).any()
    assert zeros(plain.stem).any()
