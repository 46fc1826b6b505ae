"""Identity: the certificate authority, certificates, join tokens, and their files.

Lives here: what makes, reads and judges certificates and tokens, given the moment. Not here: etcd, the network,
and what an identity may write (``core/etcd_roles.py``). Start reading at :mod:`metastack.pki.authority`.
"""
