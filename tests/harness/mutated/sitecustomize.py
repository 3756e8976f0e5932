"""Python imports this at its start where the folder is on its path: see `harness.mutated`.

The server, its worker and a process that brings its own server start as they are.
"""

import sys

if any(
    word in ("prefect.engine", "deploy", "tasks.services.stages.rank") or word.endswith("pipeline.py")
    for word in sys.orig_argv
):
    from harness.mutated import switch_off

    switch_off()
