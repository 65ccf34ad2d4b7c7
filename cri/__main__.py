"""`python -m cri`: the same as the command `podwright`."""

from cri.cli.main import main

main()
