from __future__ import annotations

import json

import pytest

from edgesearch.board_eval.targets import load_profile
from edgesearch.board_eval.timing._layer_report import figure, layer_report

from .._networks import Net, residual_net

PROFILE = load_profile("zcu104")


def test_the_three_kinds_of_advice() -> None:
    net = Net(97, 97, 3)
    x = net.conv("image", 66, 3, name="few")  # two channels above 64, 13 stripes of 5 words a column: 6305 words
    net.head(net.conv(x, 32, 3, name="next"))
    report = layer_report(net.graph(), PROFILE)
    kinds = {(advice.kind, advice.layer) for advice in report.advice}
    assert {("channels", "few"), ("rows", "next"), ("spill", "few")} <= kinds
    assert all(advice.kind != "channels" or advice.layer == "few" for advice in report.advice)
    assert [advice.seconds for advice in report.advice] == sorted((advice.seconds for advice in report.advice), reverse=True)


def test_a_network_that_fits_the_dpu_gets_no_advice() -> None:
    net = Net(32, 32, 16)
    net.head(net.conv(net.conv("image", 16), 32), 16)
    assert layer_report(net.graph(), PROFILE).advice == ()


def test_json_has_every_layer_and_the_whole() -> None:
    report = layer_report(residual_net(32, (16, 32, 48)), PROFILE)
    content = json.loads(report.to_json())
    assert content["latency_fps"] == pytest.approx(1 / content["latency_s"])
    assert sum(layer["seconds"] for layer in content["layers"]) == pytest.approx(content["dpu_s"])
    assert all(layer["bound_by"] in ("conv", "misc", "load", "save") for layer in content["layers"])


def test_the_table_has_a_line_for_every_layer() -> None:
    report = layer_report(residual_net(32, (16, 32, 48)), PROFILE)
    text = report.to_text()
    assert all(layer.name[-40:] in text for layer in report.timing.layers)
    assert "python runner" in text


def test_the_figure_stacks_the_whole_time() -> None:
    report = layer_report(residual_net(32, (16, 32, 48)), PROFILE)
    picture = json.loads(figure(report).to_json())
    assert len(picture["data"]) == 4
    assert "stack" in json.dumps(picture["layout"])
