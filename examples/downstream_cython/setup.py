"""Builds int8search; the include folder is all that edgekern asks for, nothing is linked."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import edgekern

extension = Extension("int8search", ["int8search.pyx"], include_dirs=[edgekern.get_include()])
setup(ext_modules=cythonize([extension], language_level=3))
