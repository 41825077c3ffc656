"""Reports of runs and profiles: evaluation, plots, HTML.

The package is callable: `efficientnetv2.report("runs/photos")`; see
`efficientnetv2.report.report.report`.
"""

from efficientnetv2.common.callable_package import make_callable

make_callable(__name__, "report", "report")
