"""Commands of metriclab one after the other in one process, as starting it takes longer than a tiny run.

A script for an environment that has metriclab: python run_commands.py '[["run", "recipe.toml"], ...]'
"""

import json
import sys

from metriclab.cli import main

for arguments in json.loads(sys.argv[1]):
    code = main(arguments, standalone_mode=False)
    if code:
        print("of", *arguments, file=sys.stderr)
        sys.exit(code)
