"""One module per figure, each with

TITLE, ALT (the picture in a sentence), NEEDS (what it is drawn from),
frame(study, contrasts) -> the data that is drawn, of one model and data set; empty if there is none,
draw(frame) -> Figure, and caption(frame) -> what to see in it.
"""

from types import ModuleType

from analysis.study.figures import association, curvature, curves, dials, forest, growth

FIGURES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module for module in (dials, curves, forest, curvature, association, growth)
}
