"""The part of a candidate that says what goes from a trained network."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from edgesearch.plugins import is_import_path
from edgesearch.settings import Settings
from edgesearch.spaces._validation import name_or_path

#: Pruning that sets single weights to zero, for analysis: the DPU computes with a zero as with any other weight.
SPARSE_METHODS = ("unstructured", "n_m")
PRUNING_METHODS = ("none", "one_step", "iterative", *SPARSE_METHODS)
#: The largest share that may go.
HIGHEST_RATIO = 0.95


class Pruning(Settings):
    """Structured pruning; `ratio` is the share of `target` removed. `method`: a name, or a pruner's import path.

    The SPARSE_METHODS remove nothing: "unstructured" sets a share `ratio` of the weights to zero, "n_m" all but N of every M
    that lie side by side along the input channels, by `pattern`.
    """

    method: str = "none"
    ratio: float = Field(default=0.0, ge=0.0, le=HIGHEST_RATIO)
    #: What the ratio is of: multiply-accumulates, or the DPU's time for an image.
    target: Literal["macs", "fps"] = "macs"
    #: Every layer keeps a multiple of this many channels; None: as many as the DPU works on side by side.
    granularity: int | None = Field(default=None, ge=1, le=256)
    #: Prune-and-fine-tune rounds (not for one_step).
    steps: int = Field(default=3, ge=1, le=20)
    #: Who removes the channels: this program, or Vitis AI's optimizer in its own Python.
    backend: Literal["edgesearch", "vai"] = "edgesearch"
    #: Of n_m: "N:M", how many of how many weights are not zero.
    pattern: str = Field(default="2:4", pattern=r"^[1-9]\d?:[1-9]\d?$")
    #: SHA-256 over the files that a pruner by import path comes from, filled in when a study is read.
    source_sha256: str = ""

    @property
    def sparse(self) -> bool:
        """Whether it sets weights to zero instead of removing channels."""
        return self.method in SPARSE_METHODS

    @property
    def removes(self) -> bool:
        """Whether channels go."""
        return self.method != "none" and not self.sparse and self.ratio > 0

    @property
    def n_m(self) -> tuple[int, int]:
        """The pattern's numbers: so many weights of so many are not zero."""
        kept, _, of = self.pattern.partition(":")
        return int(kept), int(of)

    def canonical(self) -> Pruning:
        """The same with every setting that has no effect at its default."""
        default = Pruning()
        if self.method == "n_m":
            kept, of = self.n_m
            return Pruning(method="n_m", ratio=round(1 - kept / of, 4), pattern=self.pattern)
        if self.method == "none" or self.ratio == 0.0:
            return default
        if self.method == "unstructured":
            return Pruning(method=self.method, ratio=self.ratio)
        if is_import_path(self.method):  # it may make use of any setting
            return self
        steps = default.steps if self.method == "one_step" else self.steps
        return self.model_copy(update={"steps": steps, "pattern": default.pattern})

    def __str__(self) -> str:
        if self.method == "n_m":
            return f"{self.pattern} sparse"
        of = f"/{self.granularity}" if self.granularity else ""
        by = "" if self.backend == "edgesearch" else f" {self.backend}"
        what = "" if self.target == "macs" else " of time"
        default = Pruning()
        rounds = "" if self.steps == default.steps else f" in {self.steps} step{'s' * (self.steps > 1)}"
        pattern = "" if self.pattern == default.pattern else f" {self.pattern}"
        return f"{self.method.rpartition(':')[2]} {100 * self.ratio:g}%{what}{of}{rounds}{pattern}{by}"

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        return name_or_path(method, PRUNING_METHODS)

    @model_validator(mode="after")
    def _possible(self) -> Pruning:
        if self.backend == "vai" and is_import_path(self.method):
            raise ValueError(f"backend = 'vai' prunes with one_step or iterative, not with {self.method!r}; leave it out")
        if self.backend == "vai" and self.target == "fps":
            raise ValueError("backend = 'vai' prunes to a share of the MACs; leave it out, or target = 'fps'")
        kept, of = self.n_m
        if not 0 < 1 - kept / of <= HIGHEST_RATIO:
            what = "leaves nothing out" if kept >= of else f"leaves out more than {HIGHEST_RATIO:.0%}"
            raise ValueError(f"pattern = {self.pattern!r} {what}; expected N:M with N below M, such as 2:4")
        if self.sparse and (self.backend == "vai" or self.target == "fps"):
            asked = "backend = 'vai'" if self.backend == "vai" else "target = 'fps'"
            raise ValueError(f"method = {self.method!r} sets weights to zero and saves no time of the DPU; leave out {asked}")
        return self
