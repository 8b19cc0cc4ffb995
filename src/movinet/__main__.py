"""`python -m movinet`."""

import sys

from movinet.cli import main

sys.exit(main())
