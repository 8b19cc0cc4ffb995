"""Say in one sentence what is missing before anything is installed."""

import importlib.util
import sys

if sys.version_info < (3, 11):
    sys.exit(f"movinet needs Python 3.11 or later, this is {sys.version.split()[0]}: make test PYTHON=python3.11")
if importlib.util.find_spec("ensurepip") is None:
    sys.exit("this Python cannot make virtual environments: install python3-venv")
