"""`python -m glassbox`."""

from glassbox.cli.main import main

main()
