"""A data source of a user's own is found by its import path, checked, and told its options."""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
from _archives import numbered, write_binary_batches, write_mnist
from PIL import Image
from sklearn.datasets import load_digits

from edgesearch.errors import DataError, PluginError, SettingsError
from edgesearch.objectives.data import DATA_SOURCES, DataSet, DataSettings, load_data
from edgesearch.objectives.data._digits import read_digits
from edgesearch.testing import DataSourceContract

DOCS = Path(__file__).parents[3] / "docs" / "data.md"
SOURCE = """
    import numpy as np
    from edgesearch.objectives.data import Normalisation, RawData, Split

    def load(settings, folder):
        count = settings.options["count"]
        levels = np.load(folder / "levels.npy")
        images = np.repeat(levels[np.arange(count) % len(levels), None, None], 4, 1).repeat(4, 2)
        labels = np.arange(count) % 2
        return RawData(
            classes=("dark", "bright"),
            train=Split(images, labels),
            test=Split(images[:10], labels[:10]),
            validation=Split(images[:6], labels[:6]) if settings.options.get("validation") else None,
            normalisation=Normalisation((0.1,), (0.2,)),
            notes=("made up",),
        )
"""


def write_source(folder: Path, source: str = SOURCE) -> Path:
    (folder / "my_source.py").write_text(textwrap.dedent(source))
    np.save(folder / "levels.npy", np.arange(1, 200, dtype=np.uint8))
    return folder


def write_documented(folder: Path) -> DataSettings:
    """The example of docs/data.md: its source in `folder`, and its settings."""
    text = DOCS.read_text()
    (folder / "my_source.py").write_text(text.split("```python\n")[1].split("```")[0])
    return DataSettings.model_validate(tomllib.loads(text.split("```toml\n")[1].split("```")[0])["data"])


class TestDocumentedSource(DataSourceContract):
    """The source that docs/data.md shows."""

    def make(self, folder: Path) -> DataSettings:
        return write_documented(folder)


class TestOwnSource(DataSourceContract):
    """A source in the study's folder."""

    def make(self, folder: Path) -> DataSettings:
        write_source(folder)
        return DataSettings(name="my_source:load", options={"count": 60})


class TestDigits(DataSourceContract):
    """The bundled digits."""

    def make(self, folder: Path) -> DataSettings:
        return DataSettings()


class TestNpz(DataSourceContract):
    """Arrays in a file, with validation images of their own."""

    def make(self, folder: Path) -> DataSettings:
        own = {"x_val": np.zeros((8, 4, 4, 1), np.uint8), "y_val": np.arange(8) % 4}
        return DataSettings(name="npz", root=numbered(folder, **own), own_validation=True)


class TestFolder(DataSourceContract):
    """Pictures in class folders."""

    def make(self, folder: Path) -> DataSettings:
        rng = np.random.default_rng(0)
        for number in range(60):
            place = folder / "pictures" / ("ant", "bee")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (9, 10 + number % 3, 3), dtype=np.uint8)).save(place / f"{number}.ppm")
        return DataSettings(name="folder", root=folder / "pictures", image_size=9)


class TestMnist(DataSourceContract):
    """IDX files."""

    def make(self, folder: Path) -> DataSettings:
        write_mnist(folder, ".gz")
        return DataSettings(name="mnist", root=folder)


class TestFashionMnist(DataSourceContract):
    """The same files."""

    def make(self, folder: Path) -> DataSettings:
        write_mnist(folder, "")
        return DataSettings(name="fashion_mnist", root=folder)


class TestCifar10(DataSourceContract):
    """Binary batches."""

    def make(self, folder: Path) -> DataSettings:
        write_binary_batches(folder, 20)
        return DataSettings(name="cifar10", root=folder)


def own(folder: Path, **changes: object) -> DataSet:
    settings = {"name": "my_source:load", "options": {"count": 60}} | changes
    return load_data(DataSettings.model_validate(settings), folder=folder)


def test_an_own_source_is_told_its_options_and_may_say_how_to_normalise(tmp_path: Path) -> None:
    write_source(tmp_path)
    data = own(tmp_path)
    assert data.classes == ("dark", "bright")
    assert data.channels == 1
    assert len(data.train) + len(data.validation) + len(data.calibration) == 60
    assert len(data.test) == 10
    assert data.normalisation.mean == (0.1,)
    assert "made up" in data.notes
    assert own(tmp_path, normalisation={"mean": [0.3], "std": [0.3]}).normalisation.mean == (0.3,)


def test_an_own_source_may_set_validation_images_aside(tmp_path: Path) -> None:
    write_source(tmp_path)
    data = own(tmp_path, options={"count": 60, "validation": True})
    assert len(data.validation) == 6
    assert len(data.train) + len(data.calibration) == 60


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("load = 7", "is 7; expected a function"),
        ("def load(settings, folder): return 1", "gave int; expected edgesearch.objectives.data.RawData"),
        ("def load(settings, folder): return {}['a']", r"failed: KeyError: 'a' \(.*my_source.py, line 1\)"),
        ("def load(settings, folder): raise SystemExit(3)", r"failed: SystemExit: 3 \(.*my_source.py, line 1\)"),
        (
            "from edgesearch.objectives.data import RawData\ndef load(settings, folder): return RawData(('a', 'b'), 3)",
            "train of data source .* is int; expected a Split",
        ),
        (
            "import numpy as np\nfrom edgesearch.objectives.data import RawData, Split\n"
            "def load(settings, folder): return RawData(('a', 'b'), Split(np.zeros((4, 3, 8, 8)), np.arange(4) % 2))",
            r"my_source:load train images .*transpose\(0, 2, 3, 1\)",
        ),
        (SOURCE.replace("Normalisation((0.1,), (0.2,))", "(0.1, 0.2)"), r"normalisation of .* is \(0.1, 0.2\); expected"),
        (SOURCE.replace("(0.2,)", "(0.0,)"), "failed: SettingsError: .*every std must be above 0"),
        (
            SOURCE.replace("Split(images, labels)", "Split([np.zeros((8, 8)), np.zeros((9, 8))] * 30, labels)"),
            r"my_source:load train images are a list of ndarray \(8, 8\), ndarray \(9, 8\), .* expected one array of images",
        ),
        (
            SOURCE.replace("images, labels)", "images, [[0], [0, 1]])"),
            "my_source:load train labels are a list of list, which make no array; expected one array with a number",
        ),
        (SOURCE.replace('("dark", "bright")', "2"), "my_source:load classes is 2; expected a tuple of the classes' names"),
        (SOURCE.replace("labels)", "labels, None)"), "my_source:load train names is None; expected a tuple of a name for each"),
        (SOURCE.replace('("made up",)', "7"), "my_source:load notes is 7; expected a tuple of sentences"),
        (SOURCE.replace('("made up",)', "(), preparation=3"), "my_source:load preparation is 3; expected a sentence"),
        (SOURCE.replace("% 2\n", "% 3\n"), "a training label of 'my_source:load' is 2; expected 0 to 1"),
    ],
)
def test_an_own_source_that_is_wrong_is_one_sentence(tmp_path: Path, source: str, complaint: str) -> None:
    write_source(tmp_path, source)
    with pytest.raises(DataError, match=complaint):
        own(tmp_path)


def test_bytes_of_an_own_source_are_as_it_scaled_them(tmp_path: Path) -> None:
    write_source(tmp_path)
    plain, with_white = own(tmp_path), own(tmp_path, white=16)
    assert plain.fingerprint == with_white.fingerprint
    assert [note for note in plain.notes if "nearly black" in note]  # its levels are 1 to 60


def test_names_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError,
        match="unknown data set 'imagenet'; expected one of cifar10, digits, fashion_mnist, folder, mnist, npz or an",
    ):
        DataSettings(name="imagenet")
    with pytest.raises(PluginError, match="no_such_module"):
        load_data(DataSettings(name="no_such_module:load"), folder=tmp_path)
    with pytest.raises(SettingsError, match="'digits' takes none, got count"):
        DataSettings(options={"count": 3})
    assert sorted(DATA_SOURCES) == ["cifar10", "digits", "fashion_mnist", "folder", "mnist", "npz"]


def test_the_documented_source_gives_stripes(tmp_path: Path) -> None:
    settings = write_documented(tmp_path)
    data = load_data(settings, folder=tmp_path)
    assert sum(map(len, (data.train, data.validation, data.calibration, data.test))) == settings.options["count"] == 400
    lying = data.train.images[data.train.labels == 0].astype(int)
    assert (np.ptp(lying, axis=2) < 50).all()  # rows of one colour, but for the noise
    assert (np.ptp(lying, axis=1) >= 150).all()


def test_digits_are_those_that_the_library_gives() -> None:
    library = load_digits()
    raw = read_digits(DataSettings(), None)
    assert np.array_equal(raw.train.images[..., 0], np.rint(library.images * (255 / 16)))
    assert np.array_equal(raw.train.labels, library.target)


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ('{"lying", "standing"}', "a tuple of the classes' names"),
        ('"ab"', "a tuple of the classes' names"),
        ('{"lying": 1, "standing": 0}', "a tuple of the classes' names"),
        ('("a", "a")', "two classes of .* are called 'a'"),
        ('("\\u00fc", "u\\u0308")', "two classes of .* are called"),
        ('("a", " ")', "class 1 of .* has no name"),
        ("()", "has no names of classes"),
    ],
)
def test_classes_have_names_of_their_own_in_an_order(tmp_path: Path, classes: str, words: str) -> None:
    write_source(tmp_path, SOURCE.replace('("dark", "bright")', classes))
    with pytest.raises(DataError, match=words):
        load_data(DataSettings(name="my_source:load", options={"count": 400}), folder=tmp_path)


@pytest.mark.parametrize("name", ["npz", "folder", "mnist", "cifar10"])
def test_a_root_that_the_system_does_not_take_is_one_sentence(tmp_path: Path, name: str) -> None:
    root = tmp_path / Path(*["b" * 200] * 30) / "x.npz"
    with pytest.raises(DataError, match=r"(is too long a name for its file system; give a shorter one|File name too long)$"):
        load_data(DataSettings(name=name, root=root))
