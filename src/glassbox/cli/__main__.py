"""`python -m glassbox.cli`: what torchrun starts."""

from glassbox.cli.main import main

main()
