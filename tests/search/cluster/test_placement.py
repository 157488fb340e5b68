from __future__ import annotations

import pytest

from edgesearch.errors import StudyError
from edgesearch.search.cluster._placement import Request, places

GIB = 2**30
SMALL, LARGE = {"CPU": 4.0, "memory": 8.0 * GIB}, {"CPU": 16.0, "GPU": 2.0, "memory": 64.0 * GIB}


@pytest.mark.parametrize(
    ("request_", "count"),
    [
        (Request(), 20),
        (Request(cpus=3), 1 + 5),
        (Request(gpus=0.5), 4),
        (Request(gpus=0.1), 16),  # its processors are fewer than the shares of its GPUs
        (Request(memory=6 * GIB), 1 + 10),
        (Request(cpus=8), 2),  # the small node has no room for one
    ],
)
def test_each_node_takes_as_many_stages_as_its_scarcest_resource_allows(request_: Request, count: int) -> None:
    assert places(request_, [SMALL, LARGE], "the cluster") == count


def test_what_no_node_has_is_one_sentence() -> None:
    with pytest.raises(StudyError, match="can run no stage") as error:
        places(Request(cpus=2, gpus=1, memory=100 * GIB), [SMALL, LARGE], "the Ray cluster at host:1")
    assert str(error.value).startswith(
        "the Ray cluster at host:1 can run no stage: each is to have 2 CPUs, 1 GPU and 100 GiB of memory, and the largest of "
        "its 2 nodes has 16 CPUs, 2 GPU and 64 GiB of memory; ask for less (--threads-per-stage"
    )


def test_a_cluster_of_idle_heads_has_no_place() -> None:
    with pytest.raises(StudyError, match="has 0 CPUs"):
        places(Request(), [{"memory": 1.0}], "the cluster")


def test_what_is_not_asked_for_is_not_said() -> None:
    assert Request(cpus=2).options == {"num_cpus": 2, "num_gpus": 0.0}
    assert Request(memory=5).options["memory"] == 5
