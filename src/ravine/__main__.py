"""`python -m ravine` is the command `ravine`."""

import sys

from .cli import main

sys.exit(main())
