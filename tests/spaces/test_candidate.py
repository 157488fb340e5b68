from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesearch.errors import SpaceError
from edgesearch.spaces import Candidate, Distillation, Pruning, Quantization, Student, parse_candidate

STUDENT = Student(architecture="resnet18", input_size=32)

distillations = st.builds(
    Distillation,
    kind=st.sampled_from(["none", "logit", "intermediate", "self", "nkd"]),
    temperature=st.sampled_from([1.0, 4.0]),
    alpha=st.sampled_from([0.25, 0.5, 1.0]),
    beta=st.sampled_from([0.5, 1.0]),
    gamma=st.sampled_from([0.0, 1.5, 2.0]),
    nkd_temperature=st.sampled_from([1.0, 2.0]),
)
prunings = st.builds(
    Pruning,
    method=st.sampled_from(["none", "one_step", "iterative", "unstructured", "n_m"]),
    ratio=st.sampled_from([0.0, 0.5, 0.95]),
    granularity=st.sampled_from([8, 16]),
    steps=st.sampled_from([1, 3]),
    pattern=st.sampled_from(["2:4", "1:4"]),
)
quantizations = st.builds(
    Quantization,
    method=st.just("ptq"),
    bits=st.sampled_from([5, 8, 16]),
    algorithm=st.sampled_from(["best", "vitis", "per_channel"]),
    start=st.sampled_from(["trained", "scratch"]),
)
candidates = st.builds(
    Candidate, student=st.just(STUDENT), distillation=distillations, pruning=prunings, quantization=quantizations
)


@given(candidates)
def test_canonical_form_is_stable_and_shares_the_key(candidate: Candidate) -> None:
    canonical = candidate.canonical()
    assert canonical.canonical() == canonical
    assert canonical.key == candidate.key
    assert Candidate.model_validate(canonical.model_dump()) == canonical


@given(candidates, candidates)
def test_equal_keys_mean_equal_canonical_forms(a: Candidate, b: Candidate) -> None:
    assert (a.key == b.key) == (a.canonical() == b.canonical())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"distillation": {"kind": "none", "temperature": 9.0}}, {}),
        ({"distillation": {"kind": "logit", "beta": 2.0}}, {"distillation": {"kind": "logit"}}),
        (
            {"distillation": {"kind": "logit", "alpha": 1.0, "temperature": 9.0}},
            {"distillation": {"kind": "logit", "alpha": 1.0, "temperature": 2.0}},
        ),
        (
            {"distillation": {"kind": "nkd", "gamma": 0.0, "nkd_temperature": 9.0}},
            {"distillation": {"kind": "nkd", "gamma": 0.0}},
        ),
        ({"distillation": {"kind": "logit", "gamma": 2.0}}, {"distillation": {"kind": "logit"}}),
        ({"distillation": {"kind": "nkd", "alpha": 0.1, "temperature": 9.0}}, {"distillation": {"kind": "nkd"}}),
        ({"pruning": {"method": "none", "ratio": 0.5}}, {}),
        ({"pruning": {"method": "iterative", "ratio": 0.0}}, {}),
        ({"pruning": {"method": "none", "target": "fps"}}, {}),
        ({"pruning": {"method": "one_step", "ratio": 0.5, "steps": 7}}, {"pruning": {"method": "one_step", "ratio": 0.5}}),
        ({"pruning": {"method": "unstructured", "ratio": 0.0}}, {}),
        (
            {"pruning": {"method": "unstructured", "ratio": 0.5, "granularity": 8, "steps": 7, "pattern": "1:4"}},
            {"pruning": {"method": "unstructured", "ratio": 0.5}},
        ),
        ({"pruning": {"method": "n_m", "ratio": 0.1, "granularity": 8}}, {"pruning": {"method": "n_m", "pattern": "2:4"}}),
        ({"quantization": {"method": "ptq", "start": "scratch"}}, {}),
        ({"quantization": {"bits": 16, "algorithm": "vitis"}}, {"quantization": {"bits": 16}}),
    ],
)
def test_settings_without_effect_do_not_make_another_candidate(one: dict[str, Any], other: dict[str, Any]) -> None:
    base = {"student": STUDENT.model_dump()}
    assert parse_candidate(base | one, "a").key == parse_candidate(base | other, "b").key


@pytest.mark.parametrize(
    "change",
    [
        {"student": {"architecture": "resnet18", "input_size": 32, "width": 0.5}},
        {"distillation": {"kind": "logit"}},
        {"distillation": {"kind": "logit", "alpha": 0.1}},
        {"distillation": {"kind": "nkd"}},
        {"distillation": {"kind": "nkd", "gamma": 1.0}},
        {"distillation": {"kind": "nkd", "nkd_temperature": 2.0}},
        {"pruning": {"method": "one_step", "ratio": 0.3}},
        {"pruning": {"method": "one_step", "ratio": 0.3, "target": "fps"}},
        {"quantization": {"method": "qat"}},
        {"quantization": {"bits": 5}},
    ],
)
def test_settings_with_an_effect_make_another_candidate(change: dict[str, Any]) -> None:
    base = {"student": STUDENT.model_dump()}
    assert parse_candidate(base | change, "a").key != parse_candidate(base, "b").key


@pytest.mark.parametrize(
    ("common", "changes", "words"),
    [
        ({}, {"student": {"stem": "imagenet"}}, "resnet18 stem=imagenet @32 ptq int8"),
        ({}, {"student": {"head": 64}}, "resnet18 h64 @32 ptq int8"),
        ({"student": {"weights": "imagenet"}}, {"student": {"adapt": True}}, "resnet18 @32 weights=imagenet adapted ptq int8"),
        ({}, {"student": {"weights": "of/a.npz", "weights_sha256": "1" * 64}}, "resnet18 @32 weights=a.npz ptq int8"),
        (
            {"distillation": {"kind": "intermediate"}},
            {"distillation": {"beta": 1.0}},
            "resnet18 @32 intermediate T=4 a=0.5 b=1 ptq int8",
        ),
        (
            {"pruning": {"method": "iterative", "ratio": 0.5, "granularity": 16}},
            {"pruning": {"steps": 1}},
            "resnet18 @32 iterative 50%/16 in 1 step ptq int8",
        ),
        (
            {"pruning": {"method": "one_step", "ratio": 0.5}},
            {"pruning": {"ratio": 0.504}},
            "resnet18 @32 one_step 50.4% ptq int8",
        ),
        (
            {"pruning": {"method": "my:prune", "ratio": 0.29}},
            {"pruning": {"pattern": "1:4"}},
            "resnet18 @32 prune 29% 1:4 ptq int8",
        ),
    ],
)
def test_words_name_every_setting_that_is_not_at_its_default(
    common: dict[str, dict[str, Any]], changes: dict[str, dict[str, Any]], words: str
) -> None:
    base = {"student": {"architecture": "resnet18"} | common.pop("student", {})} | common
    changed = {**base, **{table: base.get(table, {}) | values for table, values in changes.items()}}
    assert str(parse_candidate(changed, "a")) == words != str(parse_candidate(base, "b"))


def test_words_name_no_setting_without_effect() -> None:
    assert (
        str(Candidate(student=Student(architecture="cnn_tiny", stem="imagenet", head=64, adapt=True)))
        == "cnn_tiny @32 ptq int8"
    )
    assert Student(architecture="cnn_tiny", stem="imagenet", head=64).name == "cnn_tiny"


def test_a_weights_file_counts_by_its_content_not_its_path() -> None:
    def key(path: str, checksum: str) -> str:
        return Candidate(student=STUDENT.model_copy(update={"weights": path, "weights_sha256": checksum})).key

    assert key("a.npz", "1" * 64) == key("elsewhere/b.npz", "1" * 64)
    assert key("a.npz", "1" * 64) != key("a.npz", "2" * 64)


def test_keys_are_what_they_were() -> None:
    """Studies and stores hold them."""
    resnet18 = Student(architecture="resnet18", width=0.5, stem="imagenet", head=64, input_size=64)
    own = Student(architecture="my:Net", parameters={"depth": 2, "rate": 0.5}, source_sha256="ab")
    keys = [
        Candidate(student=Student(architecture="resnet20")).key,
        Candidate(
            student=resnet18,
            distillation=Distillation(kind="logit", alpha=0.3),
            pruning=Pruning(method="iterative", ratio=0.5, granularity=16),
        ).key,
        Candidate(student=own, quantization=Quantization(method="qat")).key,
    ]
    assert keys == [
        "c7ac6a5d106028ab4c0957927228f6d0a44ea09dde08c8111399991610a51dad",
        "0f1736605c34726d9efece1511c7864a040d3c55073ce5de45ed9cf9453d4b80",
        "3eff58979dc646409278773ab4542ac30dbe184fa2c8573b2df6292ab95c6d64",
    ]


def test_a_changed_copy_has_a_key_of_its_own() -> None:
    candidate = Candidate(student=STUDENT)
    before = candidate.key
    assert candidate.model_copy(update={"quantization": Quantization(bits=5)}).key != before


def test_only_eight_bits_are_deployable() -> None:
    deployable = {bits: Candidate(student=STUDENT, quantization=Quantization(bits=bits)).deployable for bits in (5, 8, 16)}
    assert deployable == {5: False, 8: True, 16: False}


def test_zeros_are_for_analysis_and_say_so() -> None:
    sparse = Candidate(student=STUDENT, pruning=Pruning(method="unstructured", ratio=0.5))
    assert not sparse.deployable
    assert sparse.hindrance == "single weights of it are set to zero, and a DPU saves nothing by them"
    assert "unstructured 50%" in str(sparse)
    pattern = Candidate(student=STUDENT, pruning=Pruning(method="n_m", pattern="1:4"))
    assert not pattern.deployable
    assert "1:4 sparse" in str(pattern)
    assert pattern.canonical().pruning.ratio == 0.75
    assert pattern.resolved(granularity=16) == pattern  # no channels go
    assert pattern.key != sparse.key
    channels = Candidate(student=STUDENT, quantization=Quantization(algorithm="per_channel"))
    assert not channels.deployable
    assert "for each output channel" in channels.hindrance
    wide = Candidate(student=STUDENT, pruning=Pruning(method="one_step", ratio=0.5), quantization=Quantization(bits=5))
    assert "5 bits" in wide.hindrance
    assert not Candidate(student=STUDENT, pruning=Pruning(method="one_step", ratio=0.5)).hindrance


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"student": {"architecture": "resnet19"}}, ["resnet19", "resnet18"]),
        (
            {"student": {"architecture": "mlp"}, "pruning": {"method": "one_step", "ratio": 0.99}},
            ["pruning.ratio", "0.99", "0.95"],
        ),
        (
            {
                "student": {"architecture": "resnet8"},
                "pruning": {"method": "iterative", "ratio": 0.3, "target": "fps", "backend": "vai"},
            },
            ["backend = 'vai'", "share of the MACs", "target = 'fps'"],
        ),
        ({"student": {"architecture": "mlp"}, "pruning": {"method": "magic"}}, ["pruning.method", "magic", "one_step"]),
        ({"student": {"architecture": "mlp"}, "quantization": {"bits": 4}}, ["quantization.bits", "4", "5, 8 or 16"]),
        ({"student": {"architecture": "mlp"}, "colour": 3}, ["colour", "3", "unknown"]),
        ({"student": {"architecture": "mlp", "wdth": 2}}, ["unknown key student.wdth", "did you mean width"]),
        ({"student": {"architecture": "mlp"}, "quantization": {"method": "qat", "bits": 16}}, ["float16", "ptq"]),
        ({"student": {"architecture": "mlp"}, "pruning": {"method": "n_m", "pattern": "4:4"}}, ["'4:4'", "N below M"]),
        ({"student": {"architecture": "mlp"}, "pruning": {"method": "n_m", "pattern": "1:64"}}, ["'1:64'", "95%"]),
        ({"student": {"architecture": "mlp"}, "pruning": {"method": "n_m", "pattern": "half"}}, ["pruning.pattern", "half"]),
        (
            {"student": {"architecture": "mlp"}, "pruning": {"method": "unstructured", "ratio": 0.5, "target": "fps"}},
            ["'unstructured'", "saves no time", "target = 'fps'"],
        ),
        (
            {
                "student": {"architecture": "mlp"},
                "pruning": {"method": "n_m"},
                "quantization": {"method": "qat"},
            },
            ["method = 'qat' does not keep zeros", "'n_m'", "ptq"],
        ),
        (
            {"student": {"architecture": "mlp"}, "quantization": {"method": "qat", "algorithm": "per_channel"}},
            ["starts from best or vitis", "'per_channel'"],
        ),
        ({}, ["student", "missing"]),
    ],
)
def test_errors_name_the_key_and_the_value(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(SpaceError) as caught:
        parse_candidate(data, "file.toml")
    assert all(word in str(caught.value) for word in ["file.toml", *words])
    assert "\n" not in str(caught.value)
