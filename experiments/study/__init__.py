"""The fine-tuning study: one script per step, and the Snakefile that runs them as a graph.

    base → train → measure, generate → evaluate → connect

A study is one YAML file (`configs/studies`). Raw runs are in runs/, tidy tables in results/STUDY.
"""
