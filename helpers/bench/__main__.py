"""``python -m helpers.bench --machine``: the notebooks' load generator; else as ``python -m helpers bench``."""

import sys

if __name__ == "__main__":
    if sys.argv[1:] == ["--machine"]:
        from helpers.bench.generator.machine import main

        sys.exit(main())
    from helpers.__main__ import main as of_helpers

    sys.exit(of_helpers(["bench", *sys.argv[1:]]))
