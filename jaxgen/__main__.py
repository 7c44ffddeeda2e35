"""Train on files of one's own and use what was trained: `python -m jaxgen --help`."""

from jaxgen._cli._main import main

if __name__ == "__main__":
    main()
