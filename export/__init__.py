"""Exports: SavedModels for serving, other formats, verification, prediction, demo page.

The package is callable: `efficientnetv2.export(run, "serving/photos")`; see
`efficientnetv2.export.saved_model.export`.
"""

from efficientnetv2.common.callable_package import make_callable

make_callable(__name__, "saved_model", "export")
