"""What a user's own code raises is told as one of edgesearch's errors."""

from __future__ import annotations

import pytest

from edgesearch.errors import BoardError, EdgesearchError, PluginError
from edgesearch.plugins import calling


class OutOfMemoryError(RuntimeError):
    """As torch's, by its name."""


def test_the_sentence_names_the_code_the_error_and_its_line() -> None:
    said = rf"^board 'lab:Bench' failed: ZeroDivisionError: division by zero \({__file__}, line \d+\)$"
    with pytest.raises(BoardError, match=said) as caught, calling("board 'lab:Bench'", BoardError):
        print(1 / 0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("error", [PluginError("none"), MemoryError(), OutOfMemoryError(), KeyboardInterrupt()])
def test_errors_of_edgesearch_and_of_memory_pass_as_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, calling("board 'lab:Bench'", EdgesearchError):
        raise error
    assert caught.value is error
