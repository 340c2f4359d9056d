"""The version of this package, which its files name."""

__version__ = "0.1.0"
