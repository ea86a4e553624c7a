"""The "peers" engine on a cluster: its driver and its workers."""
