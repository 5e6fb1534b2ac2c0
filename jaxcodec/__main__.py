"""`python -m jaxcodec`."""

from jaxcodec.cli import main

main()
