"""Log events: to stderr and the journal, and to a central syslog.

Owns: where events go. Refuses: choosing what is worth an event. Start reading at ``logs.py``.
"""
