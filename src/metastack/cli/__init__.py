"""The command line: one file a noun; a verb parses its options, calls ``commands``, waits and prints.

Owns: options, output, the connection of one command. Refuses: rules about objects (commands/).
Start reading at ``main.py``, then ``session.py`` and ``vm/create.py``.
"""

import gc

# A command lives for a fraction of a second. Most of it goes into imports, which make many objects and hardly
# any garbage: collecting as often as Python does by default costs a sixth of the time.
gc.set_threshold(100_000, 20, 20)
