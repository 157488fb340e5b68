"""The recipes of a study: everything beside the candidate, the data and the board that decides a result."""

from __future__ import annotations

from pydantic import Field, model_validator

from edgesearch.objectives.data import DataSettings
from edgesearch.objectives.quantization import QatRecipe
from edgesearch.objectives.training import Recipe
from edgesearch.settings import Settings
from edgesearch.spaces import Student


class Teacher(Settings):
    """The network that students are distilled from, and how it is trained; `trained` takes its weights as they are."""

    student: Student
    recipe: Recipe = Recipe()
    trained: bool = False


class PruneSearch(Settings):
    """How hard pruning looks: group-ratio vectors drawn (one_step), and how much is read to score one."""

    draws: int = Field(default=20, ge=1, le=10_000)
    score_images: int = Field(default=512, ge=16)
    recalibration_images: int = Field(default=512, ge=16)


class Pipeline(Settings):
    """Everything beside the candidate that decides a result."""

    data: DataSettings = DataSettings()
    teacher: Teacher | None = None
    train: Recipe = Recipe()
    finetune: Recipe = Recipe(epochs=5, lr=1e-3)
    qat: QatRecipe = QatRecipe()
    prune: PruneSearch = PruneSearch()

    def strength(self, recipe: Recipe) -> float:
        """How much a teacher's views are changed that are those of the study: as its `recipe` says, else as the students'."""
        usual = Recipe.model_fields["augmentation_strength"].default
        return self.train.augmentation_strength if recipe.augmentation_strength == usual else recipe.augmentation_strength

    @model_validator(mode="after")
    def _sizes(self) -> Pipeline:
        if self.teacher is not None and self.teacher.trained and not self.teacher.student.weights:
            raise ValueError("teacher.trained = true needs teacher.weights = 'FILE' with the trained weights")
        if self.teacher is not None and self.teacher.trained and self.teacher.student.adapt:
            raise ValueError("teacher.trained = true takes weights as they are, and adapt = true does not; remove one of them")
        for table, recipe in (("finetune", self.finetune), ("qat", self.qat)):
            for name in ("augmentation", "augmentation_strength", "mix", "mix_alpha"):
                asked, usual, decided = (getattr(each, name) for each in (recipe, Recipe(), self.train))
                if asked not in (usual, decided):
                    raise ValueError(
                        f"{table}.{name} is {asked!r} and train.{name} {decided!r}; a study shows its training images in one "
                        "way: set it in [train] alone"
                    )
        if self.finetune.whitened or self.finetune.identity:
            raise ValueError("finetune goes on from trained weights; `whitened` and `identity` belong into [train]")
        return self
