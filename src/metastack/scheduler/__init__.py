"""The scheduler: optional, any number of them, one at work. It writes hints, and nothing waits for them.

=========  =================================================================================
election   who is at work: a leased key that must be absent to be put
picture    what the scheduler knows: one list, one watch, and the nodes' own engine
advice     from a schedule (core/placement/schedule) to hints, under the term
scheduler  these three together
main       the composition root: settings in, adapters joined to the logic, signals out
=========  =================================================================================
"""
