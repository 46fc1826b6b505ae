"""Secrets: what encrypts them, and the keys for it.

keyring    the file of cluster keys, of which the newest encrypts; start there
envelope   a value under a data key of its own, and that under a cluster key

Here lives what touches a key or a value; etcd, commands and what a secret is for live elsewhere.
"""
