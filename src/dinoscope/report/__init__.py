"""What a person reads: tables, charts, pictures, and one self-contained HTML file about one or more runs."""

import importlib
import sys
from types import ModuleType
from typing import Any


class _Report(ModuleType):
    """This package, which can also be called: `dinoscope.report(...)` is `dinoscope.api.report`.

    A package that is imported becomes an attribute of its parent, in place of the function of the same name.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return importlib.import_module("dinoscope.api").report(*arguments, **options)


sys.modules[__name__].__class__ = _Report
