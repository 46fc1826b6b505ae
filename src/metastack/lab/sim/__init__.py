"""The simulator: the real agent over twins, on a virtual clock.

``engine`` is the world, ``script`` what happens in it, ``judges`` what must hold; ``runs`` joins them, and
``mutation`` takes safety steps away. Start reading at ``runs/play.py``.
"""
