"""Tandem watches live video and answers questions about it while it watches."""

__version__ = "0.1.0"
