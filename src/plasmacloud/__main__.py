"""`python -m plasmacloud` is `plasma`."""

from plasmacloud.cli.main import main

main()
