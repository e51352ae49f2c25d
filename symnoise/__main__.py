"""`python -m symnoise`, as torchrun calls it."""

from symnoise.cli import main

main()
