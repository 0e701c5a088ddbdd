"""`python -m scanseg` is the `scanseg` command."""

from scanseg.cli.app import main

if __name__ == "__main__":
    main()
