"""The law that measurements give: exact where they follow one, honest where there are few or they scatter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.board_eval import HostRunner, SimulatedBoard, load_profile
from edgesearch.search.foresight._correction import Correction, HostLaw, Pair, Parts
from edgesearch.testing._board import _network


def parts(dpu: float, host: float = 2e-4, **more: float) -> Parts:
    return Parts(dpu=dpu, host=host, core=dpu * 1.1, cores=2, threads=8, spacing=more.get("spacing", 0.0))


def measured(one: Parts, dpu: float, host: float, noise: float = 1.0) -> Pair:
    return Pair(one, one.latency(dpu, host) * noise, one.image(dpu, host) * noise)


def test_nothing_measured_changes_nothing() -> None:
    figures = {"fps": 100.0, "latency_ms": 20.0, "latency_fps": 50.0}
    assert Correction.of([]).apply(figures, parts(0.01)) == figures


def test_one_measurement_moves_the_law_a_little_and_many_decide() -> None:
    pairs = [measured(parts(dpu), 1.5, 1.0) for dpu in np.geomspace(1e-3, 1e-1, 40)]
    one, many = Correction.of(pairs[20:21]), Correction.of(pairs)
    assert 1.1 < one.dpu < 1.4
    assert many.dpu == pytest.approx(1.5, rel=0.02)


def test_the_dpu_and_the_host_are_told_apart_by_networks_of_different_size() -> None:
    pairs = [measured(parts(dpu, host=1e-3), 1.1, 1.6) for dpu in np.geomspace(5e-5, 5e-2, 60)]
    found = Correction.of(pairs)
    assert found.dpu == pytest.approx(1.1, rel=0.03)
    assert found.host == pytest.approx(1.6, rel=0.05)


@given(st.floats(0.5, 2.0), st.floats(2e-4, 1e-2), st.floats(1e-4, 1e-2), st.integers(1, 30))
def test_where_all_is_slower_by_one_factor_corrected_speeds_lie_between_the_simulated_and_the_measured_ones(
    factor: float, dpu: float, host: float, count: int
) -> None:
    """For a network like those that were measured."""
    one = parts(dpu, host=host)
    pair = measured(one, factor, factor)
    figures = {"fps": 1 / one.image(), "latency_ms": 1e3 * one.latency(), "latency_fps": 1 / one.latency(), "fps_error": 0.05}
    corrected = Correction.of([pair] * count).apply(figures, one)
    low, high = sorted((one.latency() * 1e3, pair.latency * 1e3))
    assert low * 0.98 <= corrected["latency_ms"] <= high * 1.02
    assert corrected["latency_fps"] == pytest.approx(1e3 / corrected["latency_ms"])
    assert corrected["fps_error"] >= 0.05


def test_measurements_that_scatter_widen_the_interval() -> None:
    rng = np.random.default_rng(0)
    sizes = np.geomspace(1e-3, 1e-1, 12)
    calm = Correction.of([measured(parts(d), 1.2, 1.0) for d in sizes])
    wild = Correction.of([measured(parts(d), 1.2, 1.0, noise=float(rng.uniform(0.7, 1.3))) for d in sizes])
    figures = {"fps": 100.0, "latency_ms": 20.0, "fps_error": 0.01}
    error = [law.apply(figures, parts(1e-2))["fps_error"] for law in (calm, wild)]
    assert error[0] < 0.12 < error[1]


@pytest.mark.parametrize("runner", ["vart_python", "cpp", "thesis_script"])
@pytest.mark.parametrize("board", ["zcu104", "kv260"])
def test_a_simulated_speed_is_taken_apart_and_put_together_again(board: str, runner: str) -> None:
    simulated = SimulatedBoard(load_profile(board), runner=runner if runner in load_profile(board).runners else None)
    figures = simulated.measure(_network()).figures()
    taken = HostLaw.of(simulated).parts(figures, 64)
    assert taken.latency() * 1e3 == pytest.approx(figures["latency_ms"], rel=1e-6)
    assert 1 / taken.image() == pytest.approx(figures["fps"], rel=1e-6)


@pytest.mark.parametrize("core", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("serial", [0.0, 8e-4])
def test_the_bound_of_all_cores_is_found_from_the_figures_alone(core: float, serial: float) -> None:
    host = HostRunner(seconds=1e-3, threads=4, serial_seconds=serial)
    whole = Parts(dpu=core, host=1e-3, core=core, cores=2, threads=4, spacing=max(serial, 1e-3 / 4))
    figures = {"latency_ms": 1e3 * whole.latency(), "fps": 1 / whole.image()}
    found = HostLaw(host, cores=2, processors=4).parts(figures, 64)
    for factors in ((1.0, 1.0), (1.3, 1.0), (1.0, 0.5)):
        assert found.latency(*factors) == pytest.approx(whole.latency(*factors))
        assert found.image(*factors) == pytest.approx(whole.image(*factors))


def test_of_a_board_without_a_profile_all_time_is_the_dpus() -> None:
    taken = HostLaw().parts({"latency_ms": 4.0, "fps": 500.0}, 64)
    assert (taken.latency(2.0, 9.0), taken.image(2.0, 9.0)) == pytest.approx((8e-3, 4e-3))
