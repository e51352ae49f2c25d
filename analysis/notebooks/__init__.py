"""Notebooks: each claim measured again, step by step, for a reader who brings a model; and what they share.

`make` puts the clone on its environment's path, so that the notebooks import this package wherever Jupyter was started.
"""

from dataclasses import asdict, replace
from textwrap import fill
from types import ModuleType

import pandas as pd
from matplotlib.figure import Figure

from analysis.study.claims import outcome_ledger
from analysis.study.contrasts import contrasts
from analysis.study.data import StudyTables, measurements
from analysis.style import colour, dash, name
from symnoise.plot.style import INK, RULE, SINGLE, figure, styled

_WIDTH = 100  # characters of a caption's line


def show(module: ModuleType, tables: dict[str, pd.DataFrame]) -> Figure:
    """Print a figure's caption and draw it: `module` is of `analysis.figures`, and `tables` are those that it names."""
    return shown(module, module.frame(tables))


def show_study(module: ModuleType, study: StudyTables | None) -> Figure | None:
    """The same for `analysis.study.figures`, of the study's first model and data set; None without a study or data."""
    if study is None:
        return None
    one = first_setting(study)
    data = module.frame(one, contrasts(one))
    if data.empty:
        print(f"{module.TITLE}: not drawn, needs {module.NEEDS}")
        return None
    return shown(module, data)


def shown(module: ModuleType, data: pd.DataFrame) -> Figure:
    """Print a figure's caption and draw it, from its data."""
    print(fill(module.caption(data), _WIDTH))
    drawn: Figure = module.draw(data)
    return drawn


def first_setting(study: StudyTables) -> StudyTables:
    """The study's first model and data set alone."""
    runs = study.runs[study.runs.setting == study.settings[0]]
    tables = {name: getattr(study, name) for name in ("curves", "curvature", "outcomes")}
    return replace(study, runs=runs, **{name: part[part.run.isin(runs.run)] for name, part in tables.items()})


def outcomes(study: StudyTables | None, measures: list[str]) -> pd.DataFrame | None:
    """Mean, standard deviation and number of seeds of each measure at the end of training, by setting, arm and α."""
    if study is None:
        return None
    done = study.runs[study.runs.status == "done"][["run", "setting", "arm", "alpha", "seed"]]
    found = measurements(study).merge(done, on="run")
    found = found[(found.when == "end") & found.measure.isin(measures)]
    found = found[found.decoding == found.groupby("measure").decoding.transform("min")]  # one decoding each
    found["alpha"] = found.alpha.map("{:g}".format).replace("nan", "–")  # the arms without noise have none
    table = found.groupby(["setting", "arm", "alpha", "measure"]).value.agg(["mean", "std", "count"])
    wide = pd.DataFrame(table.unstack("measure"))
    return wide.swaplevel(axis=1).sort_index(axis=1).round(4)


@styled
def lines(curves: pd.DataFrame, label: str, title: str) -> Figure:
    """A line for each column, which is an arm's name, against the index."""
    drawn = figure(SINGLE, 2.3)
    ax = drawn.subplots()
    for arm in curves:
        ax.plot(curves.index, curves[arm], color=colour(str(arm)), ls=dash(str(arm)), label=name(str(arm)))
    ax.axhline(0, color=INK, lw=0.6)
    ax.set(xlabel=curves.index.name, ylabel=label, title=title)
    ax.grid(color=RULE, lw=0.3)
    ax.legend()
    return drawn


def verdicts(study: StudyTables | None) -> pd.DataFrame | None:
    """The study's ledger, after its number of verdicts for each claim, which is printed."""
    if study is None:
        return None
    found = pd.DataFrame(asdict(made) for made in outcome_ledger(study))
    if found.empty:
        print("nothing compared")
        return found
    print(found.groupby(["id", "verdict"]).size().unstack(fill_value=0))
    return found[["id", "quantity", "measured", "low", "high", "n", "verdict"]].round(4)
