"""Notebooks: each claim measured again, step by step, for a reader who brings a model; and what executes them."""
