"""Well-known networks of the staged family, by name.

Their blocks are the family's, where the originals of the speed records do otherwise: a pool lies behind its convolution's
batch-norm and ReLU, a residual block adds before its last ReLU, and logits are not scaled.
"""

from __future__ import annotations

from edgesearch.spaces._staged import Staged, is_staged_name

__all__ = ["PRESETS", "find_staged", "known_as"]

PRESETS: dict[str, Staged] = {
    name: Staged.parse(f"staged {network}")
    for name, network in {
        # MobileNetV2's blocks (M. Sandler et al. 2018) for small images, with ReLU in the place of ReLU6.
        "mobile_small": "32 i1x32e1 i3x48e6/2 i3x96e6/2 i2x160e6/2",
        # The residual network of MLPerf Tiny (C. Banbury et al. 2021).
        "resnet8": "16 r1x16 r1x32/2 r1x64/2",
        # D. Page's network of the CIFAR-10 speed records (2018).
        "resnet9": "64 r2x128p c1x256p r2x512p max",
        # K. He et al. 2015, section 4.2.
        "resnet56": "16 r9x16 r9x32/2 r9x64/2",
        # The convolutions of airbench94 (K. Jordan 2024), its whitened 2x2 layer as a 3x3 stem.
        "vgg_small": "32 c2x64p c2x256p c2x256p max",
        # Those of airbench94 as they are; [train] `whitened` makes what it does of the first layer.
        "vgg_speed": "24k2 c2x64p c2x256p c2x256p max",
    }.items()
}
#: Networks that have a module of their own, as the family would write them.
_OTHERS = {"resnet20": Staged.parse("staged 16 r3x16 r3x32/2 r3x64/2")}
_LARGEST_FACTOR = 4.0


def find_staged(name: str) -> Staged | None:
    """The network of a preset or of a name with its settings; None where it is neither. Raises ValueError for a wrong one."""
    return Staged.parse(name) if is_staged_name(name) else PRESETS.get(name)


def known_as(staged: Staged, input_size: int, *, others: bool = False) -> tuple[str, float] | None:
    """(preset, width factor) that a canonical network is also known as; with `others`, those with a module of their own.

    The head is not looked at.
    """
    assert staged.stem_width is not None
    bare = staged.model_copy(update={"head": 0})
    for name, preset in (_OTHERS if others else PRESETS).items():
        assert preset.stem_width is not None
        # Rounding hides the factor of narrow layers least in the widest one.
        for factor in (staged.stem_width / preset.stem_width, _widest(staged) / _widest(preset)):
            if 0 < factor <= _LARGEST_FACTOR and preset.scaled(factor).canonical(input_size) == bare:
                return name, factor
    return None


def _widest(staged: Staged) -> int:
    return max(stage.width for stage in staged.stages)
