"""Which test modules the installed packages allow."""

import importlib.util

collect_ignore = []
if importlib.util.find_spec("tensorflow_addons") is None:
    collect_ignore.append("augment/test_ops_addons.py")
