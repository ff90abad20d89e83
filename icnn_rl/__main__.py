"""``python -m icnn_rl``."""

from icnn_rl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
