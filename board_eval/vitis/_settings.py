"""Where Vitis AI's tools are, and how long they may take."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from edgesearch.settings import Settings

__all__ = ["EngineChoice", "VitisSettings"]

#: What runs the container; "auto": docker or podman, whichever has the image. "none": no container is used.
EngineChoice: TypeAlias = Literal["auto", "docker", "podman", "none"]

_HOUR = 3600.0


class VitisSettings(Settings):
    """[vitis]: decides how the tools are found and for how long they run, not what comes out of them.

    A reference of an image begins with a letter or a digit: what begins with "-" would be an option of the engine.
    """

    #: Python with pytorch_nndct, as /opt/conda/envs/vitis-ai-pytorch/bin/python; "": this one if it has it, else the image's.
    python: Annotated[str, Field(pattern=r"^[^\x00]*$", max_length=4096)] = ""
    image: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]*$", max_length=512)] = (
        "xilinx/vitis-ai-pytorch-cpu:latest"
    )
    engine: EngineChoice = "auto"
    #: Seconds that one run of the compiler, or one job in Vitis AI's Python, may take.
    compile_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = _HOUR / 2
    job_timeout_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 12 * _HOUR
