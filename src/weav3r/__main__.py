"""`python -m weav3r` is the command `weav3r`."""

from .cli import main

if __name__ == "__main__":
    main()
