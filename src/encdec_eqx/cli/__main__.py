"""`python -m encdec_eqx.cli`, as messages of earlier versions had it."""

import sys

from .main import main

sys.exit(main())
