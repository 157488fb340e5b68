"""What the program in C++ is built against, and run on, where there is no VART: headers with its signatures, and libraries."""

from __future__ import annotations

import subprocess
from pathlib import Path

STUB = Path(__file__).parent / "runner" / "cpp_stub"
#: A "compiled file" of the stub: images of 4 x 5 x 3 to 10 values, at positions 6 and 4.
MARK = "0x101000056010407"
PLAN = f"4 5 3 10 6 4 {MARK} USER DPU CPU"


def build_stub(folder: Path) -> dict[str, str]:
    """Build the libraries in `folder`; the environment in which the compiler and the program find them."""
    shared = ["g++", "-std=c++17", "-shared", "-fPIC"]
    stub = [*shared, f"-I{STUB / 'include'}", str(STUB / "stub.cpp"), "-o", str(folder / "libxir.so")]
    subprocess.run(stub, check=True)
    for name in ("vart-runner", "unilog", "glog"):
        subprocess.run([*shared, "-x", "c++", "/dev/null", "-o", str(folder / f"lib{name}.so")], check=True)
    return {
        "CPLUS_INCLUDE_PATH": str(STUB / "include"),
        "LIBRARY_PATH": str(folder),
        "LD_LIBRARY_PATH": str(folder),
    }
