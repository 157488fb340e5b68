"""torchvision's ImageNet weights: found, downloaded, refused when damaged, and adapted to other images. Files are stand-ins."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from edgesearch.errors import SpaceError
from edgesearch.spaces import Student, build, check_weights, has_imagenet_weights, load_weights
from edgesearch.spaces import _imagenet as imagenet

from ._server import Server, serve

RESNET = Student(architecture="resnet18", weights="imagenet", adapt=True)


@pytest.fixture(scope="module")
def published() -> tuple[dict[str, torch.Tensor], bytes]:
    torch.manual_seed(3)
    state = build(Student(architecture="resnet18", stem="imagenet"), channels=3, classes=1000).state_dict()
    state = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}  # as torchvision's
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return state, buffer.getvalue()


@pytest.fixture
def server(
    published: tuple[dict[str, torch.Tensor], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("EDGESEARCH_WEIGHTS", str(tmp_path / "weights"))
    with serve(published[1]) as running:
        name = f"resnet18-{hashlib.sha256(published[1]).hexdigest()[:8]}.pth"
        urls = dict.fromkeys(imagenet._RELEASES, f"{running.url}/models/{name}")
        monkeypatch.setattr(imagenet, "_urls", lambda: urls)
        yield running


def network(student: Student, channels: int = 3, classes: int = 10) -> torch.nn.Module:
    torch.manual_seed(4)
    return build(student, channels=channels, classes=classes)


def name_of(server: Server) -> str:
    return f"resnet18-{hashlib.sha256(server.content).hexdigest()[:8]}.pth"


def test_every_file_of_torchvision_has_its_checksum_in_its_name() -> None:
    for architecture in imagenet._RELEASES:
        published = imagenet._published(architecture)
        assert published.url.startswith("https://download.pytorch.org/models/")
        assert published.name.startswith(architecture)
        assert len(bytes.fromhex(published.sha256)) == 4


def test_weights_are_downloaded_once_and_only_to_start_a_training(
    server: Server, published: tuple[dict[str, torch.Tensor], bytes], tmp_path: Path
) -> None:
    server.cuts[:] = [len(server.content) // 2]
    student = RESNET.model_copy(update={"stem": "imagenet"})
    model, notes = network(student), list[str]()
    assert check_weights(model, student).random == ("fc.weight", "fc.bias")
    assert not server.asked
    loaded = load_weights(model, student, note=notes.append)
    assert server.asked == [0, len(server.content) // 2]
    assert len(notes) == 1
    assert loaded.random == ("fc.weight", "fc.bias")
    assert not loaded.adapted
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in published[0].items() if not name.startswith("fc."))
    load_weights(network(student), student, note=notes.append)
    assert len(server.asked) == 2
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [name_of(server)]


def test_a_folder_that_has_them_needs_no_network(server: Server, tmp_path: Path) -> None:
    for folder in (tmp_path / "weights", tmp_path / "torch" / "hub" / "checkpoints"):
        folder.mkdir(parents=True)
        path = folder / name_of(server)
        path.write_bytes(server.content)
        load_weights(network(RESNET), RESNET)
        path.write_bytes(server.content[:-1] + b"x")
        for use in (load_weights, check_weights):
            with pytest.raises(SpaceError, match=rf"{path}.*are damaged.*copy it again from {server.url}"):
                use(network(RESNET), RESNET)
        path.unlink()
    assert not server.asked


def test_without_a_network_one_sentence_says_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    server.cuts[:] = [100, 0]
    with pytest.raises(SpaceError) as raised:
        load_weights(network(RESNET), RESNET)
    said = str(raised.value)
    assert "resnet18 could not be downloaded" in said
    assert f"put a copy of {name_of(server)} into {tmp_path / 'weights'}" in said
    assert "\n" not in said
    load_weights(network(RESNET), RESNET)
    assert server.asked == [0, 100, 100]


def test_another_classifier_is_made_only_when_asked_for(server: Server) -> None:
    student = Student(architecture="resnet18", weights="imagenet", stem="imagenet")
    for use in (check_weights, load_weights):
        with pytest.raises(SpaceError, match=r"fc.weight is \(1000, 512\), expected \(10, 512\).*adapt = true"):
            use(network(student), student)
    assert load_weights(network(student, classes=1000), student, require_all=True).random == ()


def test_the_small_stem_takes_the_large_kernel_folded(server: Server, published: tuple[dict[str, torch.Tensor], bytes]) -> None:
    model = network(RESNET)
    loaded = load_weights(model, RESNET)
    assert loaded.adapted == {"conv1.weight": "7 x 7 taps folded to 3 x 3"}
    given, own = published[0]["conv1.weight"], model.state_dict()["conv1.weight"]
    assert own.shape == (64, 3, 3, 3)
    assert torch.allclose(own.sum((2, 3)), given.sum((2, 3)), atol=1e-5)  # an even image gives the same
    corner = given[:, :, :3, :3] * torch.tensor([1, 1, 1 / 3]) * torch.tensor([[1], [1], [1 / 3]])
    assert torch.allclose(own[:, :, 0, 0], corner.sum((2, 3)), atol=1e-6)
    plain = RESNET.model_copy(update={"adapt": False})
    with pytest.raises(SpaceError, match=r"conv1.weight is \(64, 3, 7, 7\), expected \(64, 3, 3, 3\)"):
        load_weights(network(plain, classes=1000), plain, require_all=True)


def test_grey_images_get_the_sum_of_the_colours_folded(
    server: Server, published: tuple[dict[str, torch.Tensor], bytes]
) -> None:
    grey, coloured = network(RESNET, channels=1), network(RESNET)
    loaded = load_weights(grey, RESNET)
    load_weights(coloured, RESNET)
    assert loaded.adapted["conv1.weight"] == "the sum over three colours, 7 x 7 taps folded to 3 x 3"
    expected = coloured.state_dict()["conv1.weight"].sum(1, keepdim=True)
    assert torch.allclose(grey.state_dict()["conv1.weight"], expected, atol=1e-5)


def test_another_width_is_another_network(server: Server) -> None:
    student = RESNET.model_copy(update={"width": 0.5})
    for use in (check_weights, load_weights):
        with pytest.raises(SpaceError, match=r"of another network than resnet18 x0.5, .* it looks like resnet18, so"):
            use(network(student), student)


def test_files_of_torchvision_are_known_by_their_names() -> None:
    assert has_imagenet_weights(RESNET)
    assert has_imagenet_weights(Student(architecture="resnet18", weights="/a/resnet18-f37072fd.pth"))
    assert not has_imagenet_weights(Student(architecture="resnet18", weights="/a/resnet18.pth"))
    assert not has_imagenet_weights(Student(architecture="resnet18"))
