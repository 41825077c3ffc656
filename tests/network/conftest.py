"""Which test modules the installed packages allow."""

import importlib.util

from efficientnetv2.network.compat import KERAS3

collect_ignore = []
if not KERAS3 or importlib.util.find_spec("jax") is None:
    collect_ignore.append("test_jax.py")
