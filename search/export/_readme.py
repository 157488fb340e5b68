"""The page that lies beside an exported network: copy, run, compare."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgesearch.board_eval.runner import PYTHON_NAME, build_command
from edgesearch.search.export._golden import INPUT, OUTPUT, PICTURES
from edgesearch.search.export._manifest import LABELS
from edgesearch.search.export._preprocessing import numpy_lines

#: The file's name.
README = "README.md"


def make_readme(manifest: dict[str, Any], folder: str, name: str, pictures: tuple[int, ...]) -> str:
    """The page of the exported folder called `folder`; `pictures` is the shape of the golden pictures."""
    compiled = manifest["compiled"]
    xmodel = compiled["file"] if compiled else f"compiled/{name}.xmodel"
    mark = compiled["fingerprint"] if compiled else manifest["board"]["fingerprint"]
    predicted = (compiled or {}).get("predicted") or manifest["scores"]
    steps = [
        f"Copy: `scp -r {folder} root@BOARD:`"
        + (f", when `{manifest['compile']}` has made the file that the board runs." if not compiled else "."),
        f"Compare fingerprints: `ssh root@BOARD xdputil query` must name {f'`{mark}`' if mark else 'that of arch.json'}; "
        "else compile again with the board's own (manifest.json: `board.compare`).",
        f"Run: `ssh root@BOARD python3 {folder}/{PYTHON_NAME} {folder}/{xmodel}`.",
        f'Compare: exit code 0, `"equal": true` and `"preprocessing_equal": true` say that {PICTURES} became {INPUT}, and that '
        f"{OUTPUT}, bit for bit; the expected `fps` is {_figure(predicted)}.",
        "Prepare pictures of your own as `data.preparation` in manifest.json says, then by the lines below; integer i that "
        f"comes out is of the class in line i + 1 of {LABELS}.",
    ]
    numbered = "\n".join(f"{number}. {step}" for number, step in enumerate(steps, start=1))
    return f"""\
# {name}: trial {manifest["trial"]} of study {manifest["study"]}

{numbered}

```python
{numpy_lines(manifest["input"], pictures)}
```

For small networks a Python loop is slower than the DPU. The same program in C++, built on the board, takes images from a file:

```sh
{" ".join(build_command())}
./run_on_board {xmodel} --images {INPUT} --logits logits.npy --result result.json && cmp logits.npy {OUTPUT}
```
"""


def _figure(predicted: Mapping[str, Any]) -> str:
    fps, error = predicted.get("fps"), predicted.get("fps_error")
    if fps is None:
        return "not known"
    return f"{fps:.1f}" + (
        f", 90 % of measurements between {fps / (1 + error):.1f} and {fps / (1 - error):.1f}" if error else ""
    )
