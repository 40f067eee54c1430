"""`torchrun --nproc-per-node K -m graphopt.runtime out/`: one process of a run, as `graphopt run` starts several."""

import sys

from graphopt.cli.run_rank import main

if __name__ == "__main__":
    sys.exit(main())
