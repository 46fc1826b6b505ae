"""The simulator's parts: the same agent code on a virtual clock."""
