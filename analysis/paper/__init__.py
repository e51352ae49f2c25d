"""The paper's numbers, tables and figures, from published result files alone.

    python -m analysis.paper             # write paper/generated
    python -m analysis.paper FILE.log    # fail on what LaTeX's log has against the built paper

Equal files give equal bytes: nothing here reads the clock or draws a number. What has not been run is said to be so.
"""
