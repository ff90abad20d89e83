"""Train, evaluate and plot agents: `python train.py --help`."""

from icnn_rl.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
