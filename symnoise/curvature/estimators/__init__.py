"""Trace and eigenvalue estimators on products with an operator and random probes."""
