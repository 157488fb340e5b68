"""What every Target must do."""

from __future__ import annotations

from edgesearch.board_eval import Conv, Graph, Input, Target, check_fits, schedule


class TargetContract:
    """Subclass it and override `make`; pytest collects the tests."""

    def make(self) -> Target:
        """The target to test."""
        raise NotImplementedError("override `make` and return your Target")

    def test_it_is_a_target(self) -> None:
        """It has every attribute of the protocol, and names itself."""
        target = self.make()
        assert isinstance(target, Target)
        assert target.name
        assert 0 <= target.fingerprint < 1 << 64

    def test_its_geometry_is_of_whole_numbers(self) -> None:
        """Sizes are at least 1; `channel_parallel` fills the reading and the writing of channels."""
        target = self.make()
        for size in (
            target.pixel_parallel,
            target.input_parallel,
            target.output_parallel,
            target.bank_words,
            target.feature_groups,
            target.transfer_words,
            target.alu_rows,
        ):
            assert isinstance(size, int)
            assert size >= 1
        assert target.augmented_inputs >= 0
        assert target.channel_parallel % target.input_parallel == 0
        assert target.channel_parallel % target.output_parallel == 0

    def test_it_takes_a_small_network(self) -> None:
        """A 1x1 convolution breaks no limit and can be scheduled."""
        network = _convolution(kernel=1)
        assert tuple(self.make().violations(network)) == ()
        check_fits(network, self.make())
        assert len(list(schedule(network, self.make()).instructions)) > 0

    def test_it_refuses_a_kernel_beyond_its_limit_and_names_the_layer(self) -> None:
        """What is refused says which layer, what it has, what is taken and what to do."""
        target = self.make()
        network = _convolution(kernel=target.limits.conv_kernel + 1)
        found = target.violations(network)
        assert any(violation.layer == "conv" for violation in found)
        assert all(violation.given and violation.limit and violation.advice for violation in found)

    def test_it_says_the_same_twice(self) -> None:
        """Limits do not depend on what was asked before."""
        network = _convolution(kernel=self.make().limits.conv_kernel + 1)
        assert tuple(self.make().violations(network)) == tuple(self.make().violations(network))


def _convolution(*, kernel: int) -> Graph:
    side = kernel + 3
    image = Input(name="image", inputs=(), shape=(side, side, 3))
    conv = Conv(name="conv", inputs=("image",), shape=(4, 4, 8), kernel=(kernel, kernel))
    return Graph("contract", (image, conv))
