"""AlpacaEval: replies in its format, a judge between them and the references, and win rates from its annotations.

    python -m experiments.alpaca_eval replies MODEL alpaca_eval_805.jsonl --output replies.json
    python -m experiments.alpaca_eval judge experiments/configs/judges/openai.yaml replies.json alpaca_eval_805.jsonl \\
        --output annotations.json
    python -m experiments.alpaca_eval winrate annotations.json

The file formats are those of the package alpaca_eval (Li et al. 2023), which can replace any of the three steps but is
not required. It imports pkg_resources, so its environment needs setuptools<82.
"""
