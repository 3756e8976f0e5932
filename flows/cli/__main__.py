"""`python -m flows.cli` is `ups`."""

import sys

from flows.cli.main import main

sys.exit(main())
