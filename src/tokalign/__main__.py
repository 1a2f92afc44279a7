"""Entry point of ``python -m tokalign``."""

from tokalign.cli import main

if __name__ == "__main__":
    main()
