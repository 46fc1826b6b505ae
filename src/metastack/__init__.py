"""MetaStack: virtual machines that survive their node, without a master."""

__version__ = "0.1.0"
