"""Which autoseg this is: nothing in, the version out. A file of its own: no room has to import the whole package."""

__version__ = "0.1.0"
