"""Simulated worlds, scripted operators and the simulated robot node of mbarl_ros.

The folder is sim/, as in the layout of the package, but it is imported as ``mbarl_sim``: other
packages are called ``sim``, too, and an import name must be unique in an environment. The
``package_dir`` in setup.py maps the one to the other. mbarl_ros never imports this package by name:
a task file names the import path of its world, and it may just as well name a world of your own.
"""
