"""What C, C++ and Cython need to build against this package: docs/c-api.md."""

from __future__ import annotations

from pathlib import Path

from edgekern import _core

__all__ = ["get_cmake_dir", "get_include"]

# Headers are installed beside the extension module; in an editable install that is not where this file stands.
_INSTALLED = Path(_core.__file__).parent


def get_include() -> str:
    """Folder to give to a C or C++ compiler (``-I``), so that it finds ``edgekern/edgekern.h``.

    Returns
    -------
    str
    """
    return str(_INSTALLED / "include")


def get_cmake_dir() -> str:
    """Folder to give to CMake (``-Dedgekern_DIR=``), so that it finds ``find_package(edgekern)``.

    Returns
    -------
    str
    """
    return str(_INSTALLED / "cmake")
