"""What every test may use."""

from __future__ import annotations

import logging
import os
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from moto.server import ThreadedMotoServer

# No test is one of time: on a busy machine any example may take long, to be made and to be tried.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

#: Tests of studies.
_WAITING = Path(__file__).parent / "search"
#: Golden files of AMD's tools, measurements, CIFAR-10 and MNIST: beside the checkout, or where this variable says.
_REFERENCE_DATA = Path(os.environ.get("EDGESEARCH_REFERENCE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes name no test: a compressed file holds the second it was made, and workers that share tests need one name."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that start workers, servers and browsers, and wait for them, between those that compute; long ones first.

    So processes that share the tests, file by file, leave no core idle, and none has a long file left when all else is done.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    order: list[tuple[float, Path]] = []
    for waits in (False, True):
        kind = [path for path in files if (_WAITING in path.parents) == waits]
        kind.sort(key=lambda path: -sum(item.get_closest_marker("slow") is not None for item in files[path]))
        order += [((place + 0.5) / len(kind), path) for place, path in enumerate(kind)]
    items[:] = [item for _, path in sorted(order) for item in files[path]]


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of reference data; the test is skipped where there is none."""
    if not _REFERENCE_DATA.is_dir():
        pytest.skip(f"no reference data at {_REFERENCE_DATA} (set EDGESEARCH_REFERENCE_DATA)")
    return _REFERENCE_DATA


#: Stands for AMD's compiler: this program's own makes the file, from what vai_c_xir is given.
_VAI_C_XIR = """#!{python}
import json, sys
from pathlib import Path
from edgesearch.board_eval import Fingerprint, compile_xmodel, dpu_of_fingerprint, read_xmodel

values = dict(zip(sys.argv[1::2], sys.argv[2::2]))
mark = Fingerprint.parse(json.loads(Path(values["--arch"]).read_text())["fingerprint"])
output = Path(values["--output_dir"])
output.mkdir()
print("[UNILOG][INFO] Compile mode: dpu")
xmodel = compile_xmodel(read_xmodel(values["--xmodel"]), dpu_of_fingerprint(mark))
xmodel.write(output / (values["--net_name"] + ".xmodel"))
"""


@pytest.fixture
def vai_c_xir(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a vai_c_xir that is put on PATH; a test may write another script there."""
    path = tmp_path_factory.mktemp("vitis") / "vai_c_xir"
    path.write_text(_VAI_C_XIR.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    return path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The URL of an S3 server on this machine, which keeps its objects in memory."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """s3://BUCKET of that server, empty; this process and its children reach it."""
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
        "EDGESEARCH_CACHE": str(tmp_path / "copies"),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid.uuid4().hex}"
    request = urllib.request.Request(f"{s3_server}/{name}", method="PUT")
    urllib.request.urlopen(request).close()
    return f"s3://{name}"
