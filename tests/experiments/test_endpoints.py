"""A study states what it is to decide before anything runs; every way of not doing so is one line."""

from pathlib import Path

import pytest
import yaml

from experiments.study.spec import load_study
from result_schema.study import LARGEST_MARGIN
from symnoise.core import InputError

STUDIES = sorted(Path("experiments/configs/studies").glob("*.yaml"))
SMOKE = yaml.safe_load(Path("experiments/configs/studies/micro-smoke.yaml").read_text())


def changed(tmp_path: Path, **sections) -> Path:
    """The study in miniature with other sections; None leaves one out."""
    settings = {key: value for key, value in (SMOKE | sections).items() if value is not None}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True))
    return path


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_file_names_endpoints_of_arms_that_it_runs(path, tmp_path) -> None:
    settings = yaml.safe_load(path.read_text())
    # The data and AlpacaEval's files need not lie here.
    settings = {key: value for key, value in settings.items() if key != "alpaca_eval"} | {"data": "chitchat"}
    plain = tmp_path / path.name
    plain.write_text(yaml.safe_dump(settings, allow_unicode=True))
    study = load_study(plain)
    assert (study.primary.contrasts or study.primary.slopes) and study.primary.outcomes
    assert study.equivalence is None or study.equivalence.margin <= LARGEST_MARGIN
    assert hash(study) == hash(load_study(plain))


EQUAL = {"margin": 0.2, "controls": [["none", "uniform"], ["gaussian-raw", "gaussian"]]}
PRIMARY = {"contrasts": [["symnoise", "uniform"]], "outcomes": {"held-out loss": 0.002}}
REFUSED = {
    "no endpoints": ({"primary": None}, "missing primary"),
    "no contrast": ({"primary": PRIMARY | {"contrasts": []}}, "primary must name outcomes, and either"),
    "no outcome": ({"primary": PRIMARY | {"outcomes": {}}}, "primary must name outcomes, and either"),
    "an arm that is not run": ({"primary": PRIMARY | {"contrasts": [["penalty", "none"]]}}, "penalty is not among"),
    "no pair": (
        {"primary": PRIMARY | {"contrasts": ["symnoise"]}},
        "primary: contrasts, 0: input should be a valid array",
    ),
    "scores without plain replies": (
        {
            "primary": PRIMARY | {"outcomes": {"chrF": 0.1}},
            "generating": SMOKE["generating"] | {"repetition_penalties": [1.2]},
        },
        "chrF is not measured without replies without a penalty",
    ),
    "scores of no task": (
        {"primary": PRIMARY | {"outcomes": {"MMLU acc": 0.1}}},
        "MMLU acc is not measured without tasks, mmlu",
    ),
    "wins without a judge": (
        {"primary": PRIMARY | {"outcomes": {"AlpacaEval win rate": 1}}},
        "AlpacaEval win rate is not measured without alpaca_eval with a judge",
    ),
    "no two arms": ({"primary": PRIMARY | {"contrasts": [["symnoise"]]}}, "contrasts, 0, 1: field required|missing"),
    "no difference": ({"primary": PRIMARY | {"outcomes": {"held-out loss": 0}}}, "held-out loss: give the difference"),
    "an old margin": ({"margin": 0.02}, "unknown setting 'margin'"),
    "a large margin": ({"equivalence": EQUAL | {"margin": 0.3}}, "margin 0.3: give a share of .* at most 0.2"),
    "no margin": ({"equivalence": EQUAL | {"margin": 0}}, "margin 0: give a share"),
    "laws without a rule": ({"equivalence": None}, "gaussian is compared with uniform: add equivalence"),
    "no control": ({"equivalence": EQUAL | {"controls": []}}, "equivalence has no positive control except"),
    "a control that is the margin": (
        {"equivalence": EQUAL | {"controls": [["none", "uniform"]]}},
        "equivalence has no positive control except",
    ),
    "a control that is not run": (
        {"equivalence": EQUAL | {"controls": [["rademacher", "gaussian"]]}},
        "controls: rademacher is not among",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_decides_nothing_is_refused_before_anything_runs(tmp_path, name) -> None:
    sections, said = REFUSED[name]
    with pytest.raises(InputError, match=said) as refused:
        load_study(changed(tmp_path, **sections))
    assert "\n" not in str(refused.value)


def test_the_study_in_miniature_is_read(tmp_path) -> None:
    assert load_study(changed(tmp_path)).equivalence.controls == (("none", "uniform"), ("gaussian-raw", "gaussian"))


def test_a_number_where_a_word_is_asked_for_is_one_line(tmp_path) -> None:
    path = changed(tmp_path, training=SMOKE["training"] | {"precision": 16})
    with pytest.raises(InputError, match="precision: input should be a valid string; got 16"):
        load_study(path)
