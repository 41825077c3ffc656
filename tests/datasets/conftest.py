"""Which test modules the installed packages allow."""

import importlib.util

collect_ignore = []
if importlib.util.find_spec("tensorflow_addons") is None:
    collect_ignore.append("test_geometry_addons.py")
