"""Training-aware architecture search and scaling.

The package is callable: `efficientnetv2.search("cifar", config, "runs/search")`; see
`efficientnetv2.search.run.search`.
"""

from efficientnetv2.common.callable_package import make_callable

make_callable(__name__, "run", "search")
