"""The main job: every stage of `make reproduce`, as records."""
