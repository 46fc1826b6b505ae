"""Safety steps taken away one by one: each must be noticed.

Owns: the list, and running it.
Refuses: switches in the product.
Start reading at ``mutation.py``.
"""
