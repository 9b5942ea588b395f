"""``python -m grpoenv``."""

from grpoenv.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
