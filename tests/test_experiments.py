"""Recipes are complete, and what the README shows is what the results say."""

import json
from pathlib import Path

import pytest

from experiments.readme import rewritten
from experiments.recipes import SCALES, compare_models
from flowvid.models.rivals import RIVALS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results" / "compare_models-cpu.json"


@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_is_a_complete_study(scale: str) -> None:
    study = compare_models(scale)
    if scale != "quick":
        assert len(study.seeds) >= 3
        assert study.models == RIVALS
        assert study.ddim_steps[-1] == 50
    assert study.run.world == compare_models("quick").run.world


def test_unknown_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="quick, cpu, gpu; got 'huge'"):
        compare_models("huge")


def test_the_readme_shows_the_results() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert rewritten(readme, json.loads(RESULTS.read_text(encoding="utf-8"))) == readme


def test_a_readme_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected the marks"):
        rewritten("# flowvid", {})


def test_results_come_from_a_whole_study_of_committed_code() -> None:
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    study = content["study"]
    wanted = compare_models("cpu")
    assert (tuple(study["seeds"]), tuple(study["models"])) == (wanted.seeds, wanted.models)
    assert study["run"]["model"]["steps"] == wanted.run.model.steps
    assert "dirty" not in content["environment"]["commit"]
    multiscale = content["parameters"]["multiscale"]
    assert all(abs(count / multiscale - 1) <= 0.05 for count in content["parameters"].values())
    rows = [(row["seed"], row["task"], row["split"], row["method"]) for row in content["rows"]]
    assert len(set(rows)) == len(rows)
    assert {seed for seed, *_ in rows} == set(wanted.seeds)
