"""`python -I -m runtime.spawner FD VERSION`: how a daemon starts the spawner."""

from runtime.spawner.server import main

main()
