"""The command line.

A command lives for a fraction of a second, most of which goes into imports; they make objects by the ten
thousand and hardly any garbage. Collecting as often as Python does by default costs a sixth of it all.
"""

import gc

gc.set_threshold(100_000, 20, 20)
