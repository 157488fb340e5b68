"""A candidate: everything that decides which quantized network comes out, and nothing else.

Two candidates that mean the same network have the same canonical form and so the same key: settings that have no effect (the
temperature of no distillation, the ratio of no pruning) are reset to their defaults when a candidate is made canonical.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import Field, ValidationError, field_validator, model_validator

from edgesearch.errors import SpaceError
from edgesearch.plugins import is_import_path
from edgesearch.settings import Settings, explain
from edgesearch.spaces._identity import digest, identity
from edgesearch.spaces._presets import PRESETS, find_staged, known_as
from edgesearch.spaces._pruning import Pruning
from edgesearch.spaces._staged import MOST_CHANNELS, Staged
from edgesearch.spaces._validation import name_or_path

DEPLOYABLE_BITS = 8

#: Architectures of this project; anything else is an import path, `package.module:Class`.
TORCHVISION_STUDENTS = ("mobilenet_v2", "resnet18", "resnet50", "squeezenet1_0", "squeezenet1_1")
CNN_STUDENTS = ("cnn_large", "cnn_small", "cnn_tiny")
STUDENTS = (*sorted((*TORCHVISION_STUDENTS, *CNN_STUDENTS, *PRESETS, "mlp", "resnet20")),)
#: The family that has a table of settings of its own.
STAGED = "staged"
#: Those that take a hidden layer before the logits.
STUDENTS_WITH_HEAD = ("mobilenet_v2", "resnet18", "resnet50")


#: PTQ in 8 bits that is for analysis: its weights have a position for each output channel, and a DPU's tensor has one.
PER_CHANNEL = "per_channel"
ALGORITHMS = ("best", "vitis", PER_CHANNEL)
#: Those that QAT starts from.
QAT_ALGORITHMS = ("best", "vitis")


_STAGED_EXAMPLE = str(PRESETS["resnet8"])


class Student(Settings):
    """The network that is trained.

    `architecture` is one of STUDENTS, "staged" with its table, a staged network by its whole name, or an import path.
    """

    architecture: str
    width: float = Field(default=1.0, gt=0.0, le=4.0)
    input_size: int = Field(default=32, ge=4, le=1024)
    stem: Literal["imagenet", "small"] = "small"
    #: Neurons of a hidden layer before the logits; 0: none.
    head: int = Field(default=0, ge=0, le=8192)
    #: Where training starts: "" (random), "imagenet" (torchvision's weights) or a file (.safetensors, .npz, .pth).
    weights: str = ""
    #: SHA-256 of that file, filled in when a study is read, so that another file under the same name is another candidate.
    weights_sha256: str = ""
    #: Whether what these weights lack, or have in another shape (the classifier), is adapted or begins at random.
    adapt: bool = False
    #: SHA-256 over the files that a model by import path comes from, filled in likewise: other code is another candidate.
    source_sha256: str = ""
    #: Arguments of its own that a model by import path is made with.
    parameters: dict[str, bool | int | float | str] = Field(default_factory=dict)
    #: The network of architecture = "staged".
    staged: Staged | None = None

    @model_validator(mode="after")
    def _known(self) -> Student:
        if self.architecture == STAGED:
            if self.staged is None:
                raise ValueError(f"architecture = 'staged' needs a table staged; give one, or its name: {_STAGED_EXAMPLE!r}")
        elif self.staged is not None:
            raise ValueError(f"the table staged belongs to architecture = 'staged', not to {self.architecture!r}; remove one")
        elif self.architecture not in STUDENTS and not is_import_path(self.architecture) and not find_staged(self.architecture):
            raise ValueError(
                f"unknown student {self.architecture!r}; expected one of {', '.join(STUDENTS)}, a staged network such as "
                f"{_STAGED_EXAMPLE!r}, or an import path such as my_pkg.models:Net"
            )
        if self.parameters and ":" not in self.architecture:
            raise ValueError(f"{self.architecture} takes no parameters of its own; a network by import path may")
        family = self.staged or find_staged(self.architecture)
        if family is not None and (widest := family.scaled(self.width).widest) > MOST_CHANNELS:
            raise ValueError(
                f"width = {self.width:g} makes a stage or stem {widest:,} channels wide, and the most are {MOST_CHANNELS:,}; "
                "give a smaller one"
            )
        return self

    @property
    def unread(self) -> dict[str, str]:
        """By name, settings that this student does not have, though they say something: who has them, and what to do.

        They change nothing (see `canonical`), and whoever gives them believes that they do.
        """
        found = {}
        if self.stem != "small" and self.architecture not in TORCHVISION_STUDENTS:
            found["stem"] = f"{', '.join(TORCHVISION_STUDENTS)} have two stems; leave it out"
        if self.head and self.architecture not in STUDENTS_WITH_HEAD and self.network is None:
            found["head"] = f"{', '.join(STUDENTS_WITH_HEAD)} and staged networks take a head; leave it out"
        return found

    @property
    def network(self) -> Staged | None:
        """The staged network that these settings mean, in its canonical form; None for a student of another kind."""
        found = self.staged or find_staged(self.architecture)
        if found is None:
            return None
        scaled = found.scaled(self.width)
        return scaled.model_copy(update={"head": self.head or scaled.head}).canonical(self.input_size)

    def canonical(self) -> Student:
        """The same student with every setting that has no effect at its default; presets are staged networks then."""
        update: dict[str, Any] = {}
        if self.architecture not in TORCHVISION_STUDENTS:
            update["stem"] = "small"
        if self.architecture not in STUDENTS_WITH_HEAD:
            update["head"] = 0
        if not self.weights:
            update["adapt"] = False
        network = self.network
        if network is not None:
            update |= {"architecture": STAGED, "width": 1.0, "staged": network}
            own = known_as(network, self.input_size, others=True)
            if own is not None and not network.head and not self.weights:  # a file's tensors have the module's own names
                update |= {"architecture": own[0], "width": own[1], "staged": None}
        return Student(**{**{name: getattr(self, name) for name in Student.model_fields}, **update})

    @property
    def family(self) -> str:
        """The architecture in a word: a preset's name, "staged", or the last part of an import path."""
        return self._family_and_factor[0]

    @property
    def factor(self) -> float:
        """Its width relative to the architecture's own; 1 for a staged network that is no preset."""
        return self._family_and_factor[1]

    @property
    def _family_and_factor(self) -> tuple[str, float]:
        network = self.network
        if network is None:
            return self.architecture.rpartition(":")[2], self.width
        return known_as(network, self.input_size) or (STAGED, 1.0)

    @property
    def name(self) -> str:
        """The architecture in words: its width, stem, head and parameters, without its input's size."""
        network, (family, factor) = self.network, self._family_and_factor
        if network is not None and family == STAGED:
            return str(network)
        words = [family, *(f"{name}={value}" for name, value in self.parameters.items())]
        words += [f"x{factor:g}"] if factor != 1.0 else []
        words += [f"stem={self.stem}"] if self.stem != "small" and self.architecture in TORCHVISION_STUDENTS else []
        head = self.head if self.architecture in STUDENTS_WITH_HEAD else network.head if network is not None else 0
        return " ".join(words + ([f"h{head}"] if head else []))


DistillationKind: TypeAlias = Literal["none", "logit", "intermediate", "self", "nkd"]


class Distillation(Settings):
    """How the student learns from the teacher (self: from an earlier training of its own architecture).

    "nkd" has a temperature of its own and `gamma`, with the values that it was published with, and knows no `alpha`.
    """

    kind: DistillationKind = "none"
    temperature: float = Field(default=4.0, gt=0.0, le=100.0)
    #: Share of the cross-entropy with the labels; the rest goes to the teacher's logits.
    alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    #: Weight of the feature maps' mean squared error (intermediate only).
    beta: float = Field(default=0.5, ge=0.0, le=100.0)
    #: Weight of the classes that are not the label's (nkd only).
    gamma: float = Field(default=1.5, ge=0.0, le=100.0)
    #: Temperature of the classes that are not the label's (nkd only).
    nkd_temperature: float = Field(default=1.0, gt=0.0, le=100.0)

    @property
    def needs_teacher(self) -> bool:
        """Whether the study must have a [teacher]."""
        return self.kind in TAUGHT_BY_TEACHER

    def canonical(self) -> Distillation:
        """The same with every setting that has no effect at its default."""
        used = {name: getattr(self, name) for name in DISTILLATION_SETTINGS[self.kind]}
        if used.get("alpha") == 1.0:  # the teacher's logits have no share
            del used["temperature"]
        if used.get("gamma") == 0.0:
            del used["nkd_temperature"]
        return Distillation(kind=self.kind, **used)


#: Kinds that learn from the study's own teacher.
TAUGHT_BY_TEACHER: frozenset[DistillationKind] = frozenset({"logit", "intermediate", "nkd"})
#: The settings that each kind has, in the order in which a space asks for them.
DISTILLATION_SETTINGS: dict[DistillationKind, tuple[str, ...]] = {
    "none": (),
    "logit": ("temperature", "alpha"),
    "self": ("temperature", "alpha"),
    "intermediate": ("temperature", "alpha", "beta"),
    "nkd": ("nkd_temperature", "gamma"),
}


class Quantization(Settings):
    """PTQ or QAT. 8 bits run on the DPU; 5 bits and 16 (float16) are for analysis and marked not deployable."""

    method: Literal["ptq", "qat"] = "ptq"
    bits: Literal[5, 8, 16] = 8
    #: The PTQ algorithm. QAT of a trained network scales channels first with "best", and leaves them as they are with "vitis".
    #: PTQ alone also takes "per_channel", for analysis, and the import path of a quantizer.
    algorithm: str = "best"
    #: QAT only: from the trained student, or from the student's own starting weights.
    start: Literal["trained", "scratch"] = "trained"
    #: Who quantizes: this program, or Vitis AI's pytorch_nndct in its own Python; that one knows no `algorithm`.
    backend: Literal["edgesearch", "nndct"] = "edgesearch"
    #: PTQ by pytorch_nndct only: its layer-wise fine-tuning (AdaQuant) before calibration.
    fast_finetune: bool = False
    #: SHA-256 over the files that a quantizer by import path comes from, filled in when a study is read.
    source_sha256: str = ""

    @field_validator("algorithm")
    @classmethod
    def _known(cls, algorithm: str) -> str:
        return name_or_path(algorithm, ALGORITHMS)

    @model_validator(mode="after")
    def _possible(self) -> Quantization:
        if self.method == "qat" and self.bits == 16:
            raise ValueError("quantization-aware training with 16 bits (float16) does not exist; use method = 'ptq'")
        if self.method == "qat" and self.algorithm not in QAT_ALGORITHMS:
            known = " or ".join(QAT_ALGORITHMS)
            raise ValueError(f"quantization-aware training starts from {known}, not from {self.algorithm!r}")
        if self.backend == "nndct" and (self.bits != DEPLOYABLE_BITS or self.algorithm not in QAT_ALGORITHMS):
            asked = f"{self.bits} bits" if self.bits != DEPLOYABLE_BITS else f"algorithm = {self.algorithm!r}"
            raise ValueError(f"backend = 'nndct' quantizes to 8 bits in its own way; leave out backend, or {asked}")
        return self

    @property
    def from_scratch(self) -> bool:
        """Whether it is the candidate's first training, so that there is no trained student."""
        return self.method == "qat" and self.start == "scratch"


class Candidate(Settings):
    """One point of the search space."""

    student: Student
    distillation: Distillation = Distillation()
    pruning: Pruning = Pruning()
    quantization: Quantization = Quantization()

    @model_validator(mode="after")
    def _possible(self) -> Candidate:
        if self.quantization.from_scratch and self.pruning.canonical().method != "none":
            raise ValueError("QAT from scratch trains the unpruned student; pruning needs start = 'trained'")
        if self.pruning.sparse and (self.quantization.method == "qat" or self.quantization.backend == "nndct"):
            other = "method = 'qat'" if self.quantization.method == "qat" else "backend = 'nndct'"
            raise ValueError(f"{other} does not keep zeros, which pruning.method = {self.pruning.method!r} sets; use ptq alone")
        return self

    @property
    def deployable(self) -> bool:
        """Whether it can be for the DPU: 8 bits, and no zeros that it would compute with in vain."""
        return not self.hindrance

    @property
    def hindrance(self) -> str:
        """Why it is for analysis alone, as the end of a sentence about it; "" where it is deployable."""
        if self.quantization.bits != DEPLOYABLE_BITS:
            return f"it has {self.quantization.bits} bits, and a DPU runs {DEPLOYABLE_BITS}"
        if self.quantization.algorithm == PER_CHANNEL:
            return "its weights have a fix position for each output channel, and a DPU's tensor has one"
        if self.pruning.sparse:
            return "single weights of it are set to zero, and a DPU saves nothing by them"
        return ""

    def canonical(self) -> Candidate:
        """The same network with every setting that has no effect at its default."""
        quantization = self.quantization
        if quantization.method == "ptq" or quantization.start == "scratch":
            default = Quantization()
            keep = {"start": default.start} if quantization.method == "ptq" else {"algorithm": default.algorithm}
            quantization = quantization.model_copy(update=keep)
        if quantization.bits == 16 or quantization.backend == "nndct":
            quantization = quantization.model_copy(update={"algorithm": Quantization().algorithm})
        if quantization.backend != "nndct" or quantization.method != "ptq":
            quantization = quantization.model_copy(update={"fast_finetune": False})
        return Candidate(
            student=self.student.canonical(),
            distillation=self.distillation.canonical(),
            pruning=self.pruning.canonical(),
            quantization=quantization,
        )

    def resolved(self, *, granularity: int) -> Candidate:
        """The candidate with what is left to the DPU filled in: the channels that it works on side by side."""
        if self.pruning.method == "none" or self.pruning.sparse or self.pruning.granularity is not None:
            return self
        return self.model_copy(update={"pruning": self.pruning.model_copy(update={"granularity": granularity})})

    @property  # not cached: pydantic's copies would take it along
    def key(self) -> str:
        """SHA-256 of the canonical form's identity, hexadecimal."""
        return digest(identity(self.canonical()))

    def __str__(self) -> str:
        """In words that differ where two candidates of one study do; of code and of files they have the names alone."""
        canonical = self.canonical()
        student, distillation, pruning, quantization = (
            canonical.student,
            canonical.distillation,
            canonical.pruning,
            canonical.quantization,
        )
        words = [student.name, f"@{student.input_size}"]
        if student.weights:
            words.append(f"weights={Path(student.weights).name}{' adapted' if student.adapt else ''}")
        if distillation.kind == "nkd":
            words.append(f"nkd T={distillation.nkd_temperature:g} g={distillation.gamma:g}")
        elif distillation.kind != "none":
            words.append(f"{distillation.kind} T={distillation.temperature:g} a={distillation.alpha:g}")
            words += [f"b={distillation.beta:g}"] if distillation.beta != Distillation().beta else []
        if pruning.method != "none":
            words.append(str(pruning))
        bits = {5: "int5", 8: "int8", 16: "fp16"}[quantization.bits]
        words.append(
            f"{quantization.method} {bits}"
            + ("" if quantization.algorithm == "best" else f" {quantization.algorithm.rpartition(':')[2]}")
        )
        if quantization.backend != "edgesearch":
            words[-1] += f" {quantization.backend}{' finetuned' if quantization.fast_finetune else ''}"
        if quantization.from_scratch:
            words.append("from scratch")
        return " ".join(words)


def parse_candidate(data: Any, where: str) -> Candidate:
    """A Candidate from the tables of a TOML or JSON file; raises SpaceError naming the key and its value."""
    try:
        return Candidate.model_validate(data)
    except ValidationError as error:
        raise SpaceError(f"{where}: {explain(error, candidate_keys())}") from error


def candidate_keys(table: str = "") -> dict[str, list[str]]:
    """The keys of a candidate's tables, by name; `table` is what they stand in."""
    tables: dict[str, type[Settings]] = {
        "student": Student,
        "distillation": Distillation,
        "pruning": Pruning,
        "quantization": Quantization,
    }
    inner = {f"{table}.{name}" if table else name: list(kind.model_fields) for name, kind in tables.items()}
    return {table: list(tables), **inner}
