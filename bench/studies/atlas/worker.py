"""A process that probes the operators whose names it reads as JSON, and writes a JSON line for each sample."""

from __future__ import annotations

import json
import resource
import sys
import warnings
from dataclasses import asdict

import torch

from studies.atlas.cases import cases
from studies.atlas.probe import clean, probe

MEMORY = 12 << 30


def main() -> None:
    """Answer until the input ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    torch.set_num_threads(1)
    out, sys.stdout = sys.stdout, sys.stderr  # what operators print is no answer
    warnings.simplefilter("ignore")

    def say(**line: object) -> None:
        print(json.dumps(line), file=out, flush=True)

    say(ready=torch.__version__)
    for line in sys.stdin:
        name, limit = json.loads(line)
        try:
            found = cases(name, limit)
        except Exception as error:
            say(finding={"sample": "", "doubts": {0: f"no samples: {type(error).__name__}: {clean(error)}"}})
            found = []
        for case in found:
            say(sample=case.sample)
            say(finding=asdict(probe(case)))
        say(done=name)


if __name__ == "__main__":
    main()
