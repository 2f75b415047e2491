"""``python -m nemp_sim.labelling``."""

from nemp_sim.labelling.queue import main

if __name__ == "__main__":
    main()
