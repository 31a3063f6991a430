"""`python -m controlstack.train.demo`: make the demo models from seeds, stage by stage.

Each stage goes on where it was killed, and is skipped once its file says that it is through. What is measured
of the models is in docs/demo-models.md.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

import torch

from controlstack.errors import ControlError
from controlstack.train import lock
from controlstack.train.demo import files, make


def main() -> int:
    asked = _arguments()
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S", level=logging.INFO)
    if asked.install:
        for path in files.install(asked.install):
            sys.stdout.write(f"{path}\n")
        return 0
    torch.set_num_threads(asked.threads)
    try:
        with lock.alone(asked.work):
            for name in asked.stages or list(make.STAGES):
                make.STAGES[name](asked.work)
    except ControlError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m controlstack.train.demo", description=__doc__)
    parser.add_argument("stages", nargs="*", choices=[[], *make.STAGES], help="only these, in this order")
    parser.add_argument("--work", type=Path, default=Path("outputs/train-demo"), help="where states are kept")
    parser.add_argument("--install", type=Path, help="copy the shipped models into this WebUI and do no more")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
