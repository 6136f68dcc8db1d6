"""``python -m peprof``."""

from peprof.cli import main

if __name__ == "__main__":
    main()
