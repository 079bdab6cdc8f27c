"""`make sim SEED=… STEPS=…`: histories from one seed on, until so many steps are done."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.sim.cell import small_limits
from tests.sim.run import Tally, run_seeds, shrink, story


def main() -> int:
    """Runs, and tells how it went; 1 if a rule was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="first seed; a fresh one unless given")
    parser.add_argument("--steps", type=int, default=1_000_000)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    print(f"make sim SEED={seed} STEPS={options.steps}", flush=True)
    tally = Tally()
    began = time.process_time()
    with small_limits():
        failure = run_seeds(seed, options.steps, tally)
        took_s = time.process_time() - began
        print(
            f"{tally.histories} histories, {tally.steps} steps in {took_s:.1f} s of one core "
            f"({tally.steps / max(took_s, 1e-9):,.0f} a second), {tally.reads} reads checked "
            f"({tally.reads_excused} stale within the bound, {tally.reads_kept} under promises "
            f"kept over a restart), {tally.breaks} breaks"
        )
        if failure is None:
            return 0
        print(f"FAILED: {failure.what}\nrepeat: {failure.repeat}\nshrinking …", flush=True)
        print(story(shrink(failure)))
    print(f"repeat: {failure.repeat}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
