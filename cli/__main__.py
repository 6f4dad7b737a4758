"""`python -m cli`: how the stack starts its children."""

from cli.main import main

main()
