"""torchvision on any torch, and without what it does not need. Each in a process of its own, since an import happens once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgesearch.plugins import with_torchvision


def said(code: str) -> str:
    script = f"import sys\nfrom edgesearch.plugins import import_torchvision\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


def test_models_are_built_without_torchs_compiler() -> None:
    code = """
model = import_torchvision("models").resnet18(num_classes=10)
found = [name for name in ("torch._dynamo", "torch._dynamo.utils", "sympy") if name in sys.modules]
print(len(list(model.parameters())), found)
"""
    assert said(code) == "62 []"


@pytest.mark.parametrize("before", ["", "import torch._dynamo"])
def test_the_compiler_is_itself_afterwards(before: str) -> None:
    code = f"""
{before}
import_torchvision("models")
import torch._dynamo.utils
print(torch._dynamo.utils.is_compile_supported("cpu") is not None, hasattr(torch._dynamo.utils, "counters"))
"""
    assert said(code) == "True True"


def test_what_torchvision_asks_of_the_compiler_is_answered_by_the_compiler() -> None:
    code = """
import_torchvision()
from torchvision.ops import roi_align
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported
own = asked("cpu")
import torch._dynamo.utils
print(own == torch._dynamo.utils.is_compile_supported("cpu"))
"""
    assert said(code) == "True"


def test_whoever_needs_more_of_the_compiler_meanwhile_has_it() -> None:
    code = """
from edgesearch.plugins import _torchvision
with _torchvision._compiler_when_asked():
    import torch._dynamo
    import torch
    print(torch._dynamo.utils.counters is sys.modules["torch._dynamo.utils"].counters, end=" ")
    print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
    assert said(code) == "True 2.0"


def test_code_that_imports_it_is_imported_on_any_torch(tmp_path: Path) -> None:
    (tmp_path / "detector.py").write_text("from torchvision.models import resnet18\nfrom torchvision.ops import nms\n")
    code = f"""
from pathlib import Path
from edgesearch.plugins import load
make = load("detector:resnet18", folder=Path({str(tmp_path)!r}))
print(len(list(make(num_classes=10).parameters())))
"""
    assert said(code) == "62"


def test_what_fails_for_another_reason_is_tried_once() -> None:
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        with_torchvision(fail)
    assert tried == [1]
