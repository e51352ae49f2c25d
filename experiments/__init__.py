"""Experiments: readable scripts that run the library and write records."""
