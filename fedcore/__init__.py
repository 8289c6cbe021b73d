"""fedcore: the tensor and autograd core of a privacy-preserving federated learning framework."""

import importlib.util
import sys
import types
import typing

if typing.TYPE_CHECKING:
    from fedcore.public import *  # noqa: F403 - mypy knows them; the list is there
else:

    def __getattr__(name: str) -> object:
        """A submodule, or a public name, whose first use loads the core (PEP 562)."""
        if name != "tensor" and importlib.util.find_spec(f"fedcore.{name}") is not None:
            return importlib.import_module(f"fedcore.{name}")
        if name == "__all__" or not name.startswith("__"):
            public = importlib.import_module("fedcore.public")
            globals().update({known: getattr(public, known) for known in public.__all__})
            globals()["__all__"] = public.__all__
            if name in globals():
                return globals()[name]
        raise AttributeError(f"module 'fedcore' has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *importlib.import_module("fedcore.public").__all__})


class _Package(types.ModuleType):
    """The type of `fedcore`, where `tensor` stays the function: a subpackage has that name, too."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "tensor" or not isinstance(value, types.ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
