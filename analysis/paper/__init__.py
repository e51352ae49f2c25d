"""The paper's numbers, tables and figures, from published result files alone.

    python -m analysis.paper             # write paper/generated
    python -m analysis.paper FILE.log    # fail on problems in LaTeX's log of the built paper

Equal files give equal bytes: nothing here reads the clock or draws random numbers. Text on runs not yet made says so.
"""
