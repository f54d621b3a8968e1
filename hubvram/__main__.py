"""`python -m hubvram`: the command line without its script."""

from hubvram.cli.main import main

if __name__ == "__main__":
    main()
