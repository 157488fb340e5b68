"""What every data source must do."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgesearch.objectives.data import DATA_SOURCES, DataSet, DataSettings, RawData, load_data


class DataSourceContract:
    """Subclass it, and let `make` give settings that name your source by its import path (or its registered name).

    A small data set will do, of at least two classes with twenty images or so each.
    """

    def make(self, folder: Path) -> DataSettings:
        """Settings of a small data set. `folder` is empty, serves as the study's, and may be written to."""
        raise NotImplementedError

    def _load(self, settings: DataSettings, folder: Path) -> DataSet:
        return load_data(settings, folder=folder)

    def _read(self, settings: DataSettings, folder: Path) -> RawData:
        return DATA_SOURCES.find(settings.name, folder=folder)(settings, folder)

    def test_settings_survive_a_study_file(self, tmp_path: Path) -> None:
        """The settings are what their JSON says; workers are given nothing else."""
        settings = self.make(tmp_path)
        assert DataSettings.model_validate_json(settings.model_dump_json()) == settings

    def test_the_source_gives_raw_data(self, tmp_path: Path) -> None:
        """Classes have distinct names, every one has training images, and images and labels are as many."""
        raw = self._read(self.make(tmp_path), tmp_path)
        assert isinstance(raw, RawData)
        assert len(set(raw.classes)) == len(raw.classes) >= 2
        assert set(np.asarray(raw.train.labels).ravel().tolist()) == set(range(len(raw.classes)))
        for split in (raw.train, raw.test, raw.validation):
            assert split is None or len(split.images) == len(split.labels) > 0
        assert all(isinstance(note, str) and note for note in raw.notes)

    def test_reading_twice_gives_the_same(self, tmp_path: Path) -> None:
        """No random numbers, no order of the file system: equal settings give equal images in equal order."""
        settings = self.make(tmp_path)
        one, other = self._load(settings, tmp_path), self._load(settings, tmp_path)
        assert one.fingerprint == other.fingerprint
        assert one.fingerprints == other.fingerprints
        assert one.notes == other.notes

    def test_the_seed_is_not_the_sources(self, tmp_path: Path) -> None:
        """Another seed draws other splits from the same images."""
        settings = self.make(tmp_path)
        one, other = (
            self._read(settings.model_copy(update={"seed": seed}), tmp_path) for seed in (settings.seed, settings.seed + 1)
        )
        assert np.array_equal(one.train.images, other.train.images)
        assert np.array_equal(one.train.labels, other.train.labels)

    def test_splits_are_whole(self, tmp_path: Path) -> None:
        """The four splits are bytes of one shape, and no image is lost or used twice."""
        settings = self.make(tmp_path)
        data, raw = self._load(settings, tmp_path), self._read(settings, tmp_path)
        splits = (data.train, data.validation, data.calibration, data.test)
        for split in splits:
            assert split.images.dtype == np.uint8
            assert split.labels.dtype == np.int64
            assert split.images.shape[1:] == (*data.size, data.channels)
        wanted = (settings.train_images, settings.validation_images, settings.calibration_images, settings.test_images)
        if not any(wanted):
            parts = [part for part in (raw.train, raw.test, raw.validation) if part is not None]
            assert sum(map(len, splits)) == sum(map(len, parts))

    def test_images_can_be_brought_to_a_size(self, tmp_path: Path) -> None:
        """`image_size` gives square images of it, and the data set says how."""
        data = self._load(self.make(tmp_path).model_copy(update={"image_size": 12}), tmp_path)
        assert data.size == (12, 12)
        assert data.preparation
