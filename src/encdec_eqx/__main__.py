"""`python -m encdec_eqx`: the command without its script."""

import sys

from .cli.main import main

sys.exit(main())
