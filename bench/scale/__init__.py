"""On a real etcd: claims a second, watch traffic, and what an agent that follows costs (docs/lab/scale.md)."""
