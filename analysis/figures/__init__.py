"""One module a figure, each with

TITLE, TABLES (its inputs), STAGES (which make those), ALT (the picture in one sentence),
frame(tables) -> the data that is drawn, as written next to the figure,
draw(frame) -> Figure, and caption(frame) -> what to see in it.
"""

from types import ModuleType

from analysis.figures import curvature, layers, moments, norms, slopes, training, validity, variances

FIGURES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (moments, slopes, variances, validity, curvature, norms, layers, training)
}
