"""Callable packages: `effnet.export(…)` next to `efficientnetv2.export.saved_model`."""

import importlib
import inspect
import sys
import types


def make_callable(package: str, module: str, function: str) -> None:
    """Makes `package` callable as `function` of its `module`, which is imported on first use.

    Otherwise a function and a package of the same name would shadow each other: whichever was
    imported last wins.
    """

    def load():
        return getattr(importlib.import_module(f"{package}.{module}"), function)

    class CallablePackage(types.ModuleType):
        def __call__(self, *args, **kwargs):
            return load()(*args, **kwargs)

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(load())

    sys.modules[package].__class__ = CallablePackage
