"""Fine-tuning runs: one engine for `symnoise train`, the quick run and the study.

`symnoise.finetune.settings` needs no PyTorch, so that the command line can build its options from it.
"""
